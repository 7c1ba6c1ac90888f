//! The Secret Service (gnome-keyring, KWallet, KeePassXC) as the store.
//!
//! Owns the one session with the service, the bound on what is asked of it at once, its prompts,
//! and the watch for its coming, going and unlocking. Never holds a secret longer than a call.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use futures_util::stream::{SelectAll, StreamExt as _, select_all};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use zbus::message::Type;
use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};
use zbus::{Connection, MatchRule, Message, MessageStream};

use super::keyring::{
    Fault, Keyring, PROMPT_TIMEOUT, SERVICE, SERVICE_INTERFACE, SERVICE_PATH, no_answer, refused, unavailable,
};
use super::{CALL_TIMEOUT, Item, ItemKind, Loaded, Store, StoreError};
use crate::account::AccountName;

/// A thousand accounts load at start: the service answers one after the other anyway.
const IN_FLIGHT: usize = 4;
/// Signals come in bursts; those that come this close together are one change.
const BURST: Duration = Duration::from_millis(50);
/// gnome-keyring announces no unlock by PAM, so it is looked for while somebody needs it.
const LOCKED_POLL: Duration = Duration::from_secs(5);
const PROMPT_INTERFACE: &str = "org.freedesktop.Secret.Prompt";

/// One prompt, for all who asked to unlock while it is shown.
type Unlocking = Shared<BoxFuture<'static, Result<(), StoreError>>>;

/// Secrets in the user's keyring.
pub struct SecretServiceStore {
    inner: Arc<Inner>,
    watcher: AbortHandle,
}

struct Inner {
    connection: Connection,
    changes: watch::Sender<u64>,
    /// Counts the owners that the service's name has lost; a session ends with its owner.
    losses: watch::Sender<u64>,
    /// tokio's mutex, held while the session opens: a thousand loads share one handshake.
    keyring: tokio::sync::Mutex<Option<(u64, Arc<Keyring>)>>,
    in_flight: Semaphore,
    /// Counts the calls that ran into [`CALL_TIMEOUT`].
    timeouts: AtomicU64,
    /// tokio's mutexes, held during a write: an account's writes keep their order.
    turns: Mutex<HashMap<AccountName, Arc<tokio::sync::Mutex<()>>>>,
    unlocking: Mutex<Option<Unlocking>>,
    awaits_unlock: AtomicBool,
}

impl SecretServiceStore {
    /// Shares the session bus connection. Must be called inside a tokio runtime, which runs its one
    /// watcher task; the service is neither started nor asked before the first call.
    #[must_use]
    pub fn new(connection: Connection) -> Self {
        let inner = Arc::new(Inner {
            connection,
            changes: watch::Sender::new(0),
            losses: watch::Sender::new(0),
            keyring: tokio::sync::Mutex::default(),
            in_flight: Semaphore::new(IN_FLIGHT),
            timeouts: AtomicU64::new(0),
            turns: Mutex::default(),
            unlocking: Mutex::default(),
            awaits_unlock: AtomicBool::new(false),
        });
        let watcher = tokio::spawn(watch_service(Arc::clone(&inner))).abort_handle();
        Self { inner, watcher }
    }
}

impl Drop for SecretServiceStore {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Store for SecretServiceStore {
    async fn load(&self, account: &AccountName) -> Result<Loaded, StoreError> {
        let end = self.inner.ask(|keyring| async move { keyring.load(account).await }).await;
        self.inner.note_lock(end)
    }

    async fn save(&self, account: &AccountName, item: Item) -> Result<(), StoreError> {
        let item = &item;
        let turn = self.inner.turn_of(account);
        let _turn = turn.lock().await;
        let end = self.inner.ask(|keyring| async move { keyring.update(account, item).await }).await;
        if self.inner.note_lock(end)? {
            return Ok(());
        }
        // Not in the queue: it may wait for a person, and the others must not wait with it.
        self.inner.retried(&|keyring: Arc<Keyring>| async move { keyring.create(account, item).await }).await
    }

    async fn erase(&self, account: &AccountName, kind: ItemKind) -> Result<(), StoreError> {
        let turn = self.inner.turn_of(account);
        let _turn = turn.lock().await;
        let end = self.inner.ask(|keyring| async move { keyring.erase(account, kind).await }).await;
        for prompt in self.inner.note_lock(end)? {
            let answer = timeout(PROMPT_TIMEOUT, self.inner.prompt(prompt)).await;
            if !answer.unwrap_or(Ok(false))? {
                return Err(refused().into_error());
            }
        }
        Ok(())
    }

    async fn unlock(&self) -> Result<(), StoreError> {
        let shared = {
            let mut slot = self.inner.unlocking.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(running) = slot.as_ref().filter(|running| running.peek().is_none()) {
                running.clone()
            } else {
                // A task: the prompt outlives the caller who asked for it first.
                let task = tokio::spawn(Arc::clone(&self.inner).unlock());
                let new = task.map(|end| end.unwrap_or(Err(StoreError::Locked))).boxed().shared();
                slot.insert(new).clone()
            }
        };
        shared.await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    fn name(&self) -> &'static str {
        "secret-service"
    }
}

impl Inner {
    /// Asks the service, within [`CALL_TIMEOUT`] and a few at a time. The wait for a place in the
    /// queue does not count, but it ends as soon as the service hangs.
    async fn ask<T, F, R>(&self, question: F) -> Result<T, StoreError>
    where
        F: Fn(Arc<Keyring>) -> R,
        R: Future<Output = Result<T, Fault>>,
    {
        let before = self.timeouts.load(Ordering::Relaxed);
        let _place = self.in_flight.acquire().await;
        if self.timeouts.load(Ordering::Relaxed) == before {
            if let Ok(answer) = timeout(CALL_TIMEOUT, self.retried(&question)).await {
                return answer;
            }
            self.timeouts.fetch_add(1, Ordering::Relaxed);
        }
        Err(no_answer().into_error())
    }

    /// Asks once more when the service restarted, in a new session, or when an item has just gone.
    async fn retried<T, F, R>(&self, question: &F) -> Result<T, StoreError>
    where
        F: Fn(Arc<Keyring>) -> R,
        R: Future<Output = Result<T, Fault>>,
    {
        let keyring = self.keyring().await.map_err(Fault::into_error)?;
        let fault = match question(Arc::clone(&keyring)).await {
            Err(fault @ (Fault::Stale(_) | Fault::Gone(_))) => fault,
            other => return other.map_err(Fault::into_error),
        };
        tracing::debug!(?fault, "asking the keyring again");
        if matches!(fault, Fault::Stale(_)) {
            let mut slot = self.keyring.lock().await;
            if slot.as_ref().is_some_and(|(_, current)| Arc::ptr_eq(current, &keyring)) {
                *slot = None;
            }
        }
        let keyring = self.keyring().await.map_err(Fault::into_error)?;
        question(keyring).await.map_err(Fault::into_error)
    }

    async fn keyring(&self) -> Result<Arc<Keyring>, Fault> {
        let mut slot = self.keyring.lock().await;
        let losses = *self.losses.borrow();
        if let Some((opened_at, keyring)) = slot.as_ref()
            && *opened_at == losses
        {
            return Ok(Arc::clone(keyring));
        }
        let opened = timeout(CALL_TIMEOUT, Keyring::open(&self.connection)).await;
        let keyring = Arc::new(opened.map_err(|_| no_answer())??);
        *slot = Some((losses, Arc::clone(&keyring)));
        Ok(keyring)
    }

    fn turn_of(&self, account: &AccountName) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(account.clone()).or_default())
    }

    async fn unlock(self: Arc<Self>) -> Result<(), StoreError> {
        let answered = timeout(PROMPT_TIMEOUT, async {
            // The collection, then what is locked in it; not every service says so when the prompt
            // was dismissed, hence the last look.
            for _ in 0..2 {
                let locked = self.locked().await?;
                if locked.is_empty() {
                    return Ok(());
                }
                self.unlock_objects(locked).await?;
            }
            if self.locked().await?.is_empty() { Ok(()) } else { Err(StoreError::Locked) }
        });
        let result = answered.await.unwrap_or(Err(StoreError::Locked));
        if result.is_ok() {
            // Not every service announces it.
            self.bump();
        }
        result
    }

    async fn locked(&self) -> Result<Vec<OwnedObjectPath>, StoreError> {
        self.ask(|keyring| async move { keyring.locked().await }).await
    }

    async fn unlock_objects(&self, objects: Vec<OwnedObjectPath>) -> Result<(), StoreError> {
        let (path, interface) = (SERVICE_PATH, Some(SERVICE_INTERFACE));
        let call = self.connection.call_method(Some(SERVICE), &path, interface, "Unlock", &objects);
        let reply = timeout(CALL_TIMEOUT, call).await.map_err(|_| no_answer().into_error())?;
        let (_, prompt): (Vec<OwnedObjectPath>, OwnedObjectPath) = reply
            .and_then(|reply| reply.body().deserialize())
            .map_err(|error| Fault::from(error).into_error())?;
        if prompt.as_str() == "/" || self.prompt(prompt).await? { Ok(()) } else { Err(StoreError::Locked) }
    }

    /// Shows a prompt; `false` when it was dismissed. Dropped before its end, it closes the dialog.
    async fn prompt(&self, path: OwnedObjectPath) -> Result<bool, StoreError> {
        let mut losses = self.losses.subscribe();
        let guard = Dismiss { connection: &self.connection, path: Some(path.clone()) };
        let answer = async {
            let rule = MatchRule::builder()
                .msg_type(Type::Signal)
                .sender(SERVICE)?
                .interface(PROMPT_INTERFACE)?
                .member("Completed")?
                .path(path.clone())?
                .build();
            let mut completed = MessageStream::for_match_rule(rule, &self.connection, None).await?;
            let reply = self
                .connection
                .call_method(Some(SERVICE), &path, Some(PROMPT_INTERFACE), "Prompt", &(""))
                .await?;
            while let Some(signal) = completed.next().await {
                let signal = signal?;
                // Any program can send us a signal that looks like this one.
                if signal.header().sender() != reply.header().sender() {
                    continue;
                }
                let (dismissed, _): (bool, Value<'_>) = signal.body().deserialize()?;
                return Ok(!dismissed);
            }
            Ok::<_, zbus::Error>(false)
        };
        let answer = tokio::select! {
            answer = answer => answer.map_err(Fault::from),
            _ = losses.changed() => Err(unavailable("the keyring stopped while it asked; restart it")),
        };
        guard.answered();
        answer.map_err(Fault::into_error)
    }

    /// Looks for the end of a lock that somebody ran into, once in a while and without a prompt.
    fn note_lock<T>(self: &Arc<Self>, end: Result<T, StoreError>) -> Result<T, StoreError> {
        let locked = matches!(end, Err(StoreError::Locked));
        if locked && !self.awaits_unlock.swap(true, Ordering::Relaxed) {
            tokio::spawn(await_unlock(Arc::downgrade(self)));
        }
        end
    }

    fn bump(&self) {
        self.changes.send_modify(|counter| *counter = counter.wrapping_add(1));
    }
}

async fn await_unlock(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(LOCKED_POLL).await;
        let Some(inner) = inner.upgrade() else { return };
        if inner.locked().await.is_ok_and(|locked| !locked.is_empty()) {
            continue;
        }
        // Unlocked, or in other trouble that those who wait should see.
        inner.awaits_unlock.store(false, Ordering::Relaxed);
        return inner.bump();
    }
}

/// Closes a dialog that nobody waits for any more.
struct Dismiss<'a> {
    connection: &'a Connection,
    path: Option<OwnedObjectPath>,
}

impl Dismiss<'_> {
    fn answered(mut self) {
        self.path = None;
    }
}

impl Drop for Dismiss<'_> {
    fn drop(&mut self) {
        let (Some(path), Ok(runtime)) = (self.path.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let connection = self.connection.clone();
        runtime.spawn(async move {
            let call = connection.call_method(Some(SERVICE), &path, Some(PROMPT_INTERFACE), "Dismiss", &());
            // It may be gone already, and there is nobody to tell.
            let _ = timeout(CALL_TIMEOUT, call).await;
        });
    }
}

/// Reads the service's signals. Nothing else is awaited here: a full queue stops the connection.
async fn watch_service(inner: Arc<Inner>) {
    let mut signals = match subscribe(&inner.connection).await {
        Ok(signals) => signals,
        Err(error) => return tracing::warn!(%error, "cannot watch the keyring for changes"),
    };
    // For what happened before.
    inner.bump();
    while let Some(signal) = signals.next().await {
        if !signal.is_ok_and(|signal| inner.notice(&signal)) {
            continue;
        }
        let burst_ends = tokio::time::sleep(BURST);
        tokio::pin!(burst_ends);
        loop {
            tokio::select! {
                () = &mut burst_ends => break,
                Some(signal) = signals.next() => { let _ = signal.map(|signal| inner.notice(&signal)); }
            }
        }
        inner.bump();
    }
}

async fn subscribe(connection: &Connection) -> zbus::Result<SelectAll<MessageStream>> {
    let signal = || MatchRule::builder().msg_type(Type::Signal);
    let rules = [
        signal().sender("org.freedesktop.DBus")?.member("NameOwnerChanged")?.arg(0, SERVICE)?,
        signal().sender(SERVICE)?.interface(SERVICE_INTERFACE)?.path(SERVICE_PATH)?,
        signal()
            .sender(SERVICE)?
            .member("PropertiesChanged")?
            .path_namespace(SERVICE_PATH)?
            .arg(0, "org.freedesktop.Secret.Collection")?,
    ];
    let mut streams = Vec::new();
    for rule in rules {
        streams.push(MessageStream::for_match_rule(rule.build(), connection, None).await?);
    }
    Ok(select_all(streams))
}

impl Inner {
    /// Whether the store may have become available, locked or absent.
    fn notice(&self, signal: &Message) -> bool {
        let header = signal.header();
        match header.member().map(zbus::names::MemberName::as_str) {
            Some("NameOwnerChanged") => {
                let body = signal.body();
                let Ok((_, old, _)) = body.deserialize::<(&str, &str, &str)>() else { return false };
                if !old.is_empty() {
                    self.losses.send_modify(|counter| *counter = counter.wrapping_add(1));
                }
                true
            }
            Some("PropertiesChanged") => {
                // Each write of an item changes `Items` and `Modified` too.
                let body = signal.body();
                let changed = body.deserialize::<(&str, HashMap<&str, OwnedValue>, Vec<&str>)>();
                changed.is_ok_and(|(_, set, unset)| set.contains_key("Locked") || unset.contains(&"Locked"))
            }
            Some("CollectionCreated" | "CollectionChanged" | "CollectionDeleted") => true,
            _ => false,
        }
    }
}
