//! One task per account: it owns the state machine, and everything that it does goes through here.
//!
//! **Invariants:** the loop never waits for IO. A refresh belongs to this task, so no caller can
//! cancel it; a stop waits for it and for its save.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::begin::Begun;
use super::budget::Budget;
use super::error::Error;
use super::handle::{Command, Interruption, Published, Request, SessionHandle};
use super::login::Starting;
use super::schedule::Jitter;
use super::state::{Answer, Heirloom, Policy, RequestId, Session};
use super::text;
use crate::account::AccountName;
use crate::clock::Clock;
use crate::config::OAuthConfig;
use crate::login::{Attempt, LoginState};
use crate::oidc::Provider;
use crate::oidc::error::ProviderError;
use crate::power::{Busy, BusyGuard};
use crate::recovery::{Recalled, Recovery};
use crate::secret::{ClientSecret, PersonalToken};
use crate::store::{Item, ItemKind, Loaded, Store, StoreError};
use crate::tokens::TokenResponse;

/// How many requests wait for the loop before callers wait to be let in.
const INBOX: usize = 64;
/// A stop gives a refresh on its way this long: its own limit, and a little for the save.
const DRAIN: Duration = Duration::from_secs(75);
/// How long `Set*` waits for the user to unlock the store; within the callers' 15 seconds.
const UNLOCK_WAIT: Duration = Duration::from_secs(12);

/// What an actor is made of.
pub struct Parts<P, S> {
    pub account: AccountName,
    pub policy: Policy,
    /// `None` for a personal account.
    pub oauth: Option<(Arc<OAuthConfig>, Arc<P>)>,
    pub store: Arc<S>,
    pub clock: Clock,
    /// Draws a number from 0 to 1.
    pub dice: Arc<dyn Fn() -> f64 + Send + Sync>,
    pub heirloom: Option<Heirloom>,
    pub recovery: Arc<dyn Recovery>,
    /// What the last process left.
    pub recalled: Recalled,
    /// Shared by all sessions of the issuer.
    pub budget: Arc<Budget>,
    pub busy: Busy,
}

/// Starts an account's task.
#[must_use]
pub fn spawn<P: Provider, S: Store>(parts: Parts<P, S>) -> SessionHandle {
    let (handle, task) = prepare(parts);
    tokio::spawn(task);
    handle
}

/// An account's task, for whoever wants to end it at any moment.
pub fn prepare<P: Provider, S: Store>(
    parts: Parts<P, S>,
) -> (SessionHandle, impl Future<Output = ()> + Send + use<P, S>) {
    let now = parts.clock.now();
    let personal = parts.policy.personal;
    let (mut session, effects) = Session::new(parts.policy, &now);
    session.recall(parts.recalled, &now);
    if let Some(heirloom) = parts.heirloom {
        session.inherit(heirloom);
    }
    let (commands, inbox) = mpsc::channel(INBOX);
    let publisher = watch::Sender::new(Published { view: session.view(&now), login: None });
    let handle = SessionHandle {
        commands,
        published: publisher.subscribe(),
        account: parts.account.clone(),
        personal,
        warm: Arc::default(),
        clock: parts.clock.clone(),
    };
    // Its task would hold it once for each function that it is moved to.
    let mut actor = Box::new(Actor {
        account: parts.account,
        oauth: parts.oauth,
        store: parts.store,
        clock: parts.clock,
        dice: parts.dice,
        session,
        handle: handle.clone(),
        waiting: HashMap::new(),
        next_request: 0,
        login: None,
        starting: None,
        tasks: JoinSet::new(),
        publisher,
        recovery: parts.recovery,
        budget: parts.budget,
        busy: parts.busy,
        busy_guard: None,
        give_up: None,
    });
    let task = async move {
        actor.perform(effects);
        actor.run(inbox).await;
    };
    (handle, task)
}

pub(super) struct Actor<P, S> {
    pub(super) account: AccountName,
    pub(super) oauth: Option<(Arc<OAuthConfig>, Arc<P>)>,
    pub(super) store: Arc<S>,
    pub(super) clock: Clock,
    pub(super) dice: Arc<dyn Fn() -> f64 + Send + Sync>,
    pub(super) session: Session,
    /// For login tasks, which report back like anybody else.
    pub(super) handle: SessionHandle,
    pub(super) waiting: HashMap<RequestId, oneshot::Sender<Answer>>,
    pub(super) next_request: u64,
    pub(super) login: Option<Arc<Attempt>>,
    pub(super) tasks: JoinSet<Completion>,
    pub(super) publisher: watch::Sender<Published>,
    pub(super) starting: Option<Starting>,
    pub(super) recovery: Arc<dyn Recovery>,
    pub(super) budget: Arc<Budget>,
    busy: Busy,
    busy_guard: Option<BusyGuard>,
    /// Ends the wait for the refresh on its way.
    pub(super) give_up: Option<oneshot::Sender<()>>,
}

pub(super) enum Completion {
    Loaded(Result<Loaded, StoreError>),
    Refreshed(Result<TokenResponse, ProviderError>),
    Written(u64, Result<(), StoreError>),
    EndedAtProvider(bool),
    /// Where a login goes.
    Begun(Result<Begun, Error>),
    ClientSecretSet(Result<Option<ClientSecret>, StoreError>, oneshot::Sender<Result<(), Error>>),
    PersonalTokenSet(Result<Option<PersonalToken>, StoreError>, oneshot::Sender<Result<(), Error>>),
    LoginOver,
    /// Nothing to take note of.
    Nothing,
}

impl<P: Provider, S: Store> Actor<P, S> {
    async fn run(mut self: Box<Self>, mut inbox: mpsc::Receiver<Box<Command>>) {
        let mut store_changes = self.store.changes();
        store_changes.mark_unchanged();
        let mut returns = self.budget.returns();
        let heir = loop {
            let deadline = self.session.next_timeout(&self.clock.now());
            tokio::select! {
                biased;
                Some(done) = self.tasks.join_next() => self.complete(done),
                command = inbox.recv() => match command.map(|command| *command) {
                    Some(Command::Stop(heir)) => break Some(heir),
                    Some(command) => self.obey(command),
                    None => break None,
                },
                Ok(()) = store_changes.changed() => {
                    let now = self.clock.now();
                    let effects = self.session.store_changed(&now);
                    self.perform(effects);
                }
                // Also when several were missed: one is as good.
                _ = returns.recv() => {
                    let now = self.clock.now();
                    let effects = self.session.provider_returned(&now);
                    self.perform(effects);
                }
                () = sleep(&self.clock, deadline) => {
                    let now = self.clock.now();
                    let effects = self.session.handle_timeout(&now);
                    self.perform(effects);
                }
            }
            self.publish();
            self.tell_busy();
        };
        self.drain(inbox, heir).await;
    }

    /// Lets what was sent to the provider come back and be saved.
    async fn drain(
        mut self: Box<Self>,
        inbox: mpsc::Receiver<Box<Command>>,
        heir: Option<oneshot::Sender<Heirloom>>,
    ) {
        // Whoever still waits in there is told to try again.
        drop(inbox);
        let now = self.clock.now();
        let effects = self.session.stop(&now);
        self.perform(effects);
        let deadline = now.boot.after(DRAIN);
        while self.session.is_busy() {
            let timeout = self.session.next_timeout(&self.clock.now());
            tokio::select! {
                biased;
                Some(done) = self.tasks.join_next() => self.complete(done),
                // Callers who came before have their 15 seconds still.
                () = sleep(&self.clock, timeout.filter(|at| *at < deadline)) => {
                    let now = self.clock.now();
                    let effects = self.session.handle_timeout(&now);
                    self.perform(effects);
                }
                () = self.clock.sleep_until(deadline) => break,
            }
        }
        if let Some(attempt) = self.login.filter(|attempt| attempt.is_pending()) {
            attempt.end(
                LoginState::Cancelled,
                "cancelled",
                "the account was reconfigured or bearerd stopped".into(),
            );
        }
        if let Some(heir) = heir {
            let _ = heir.send(self.session.into_heirloom());
        }
    }

    fn obey(&mut self, command: Command) {
        let now = self.clock.now();
        let effects = match command {
            Command::Ask(request, reply) => {
                let id = self.park(reply);
                match request {
                    Request::Token(options) => self.session.get_token(id, options, &now),
                    Request::Reject(token_id) => self.session.reject(id, token_id, &now),
                    Request::Refresh => self.session.refresh_now(id, &now),
                    Request::Logout => self.session.logout(id, &now),
                }
            }
            Command::LoggedIn(granted, reply) => {
                let id = self.park(reply);
                let (granted, asked) = *granted;
                self.session.logged_in(id, granted, &asked, &now, self.jitter())
            }
            Command::Unlocking(opened) => {
                self.session.unlocking(opened);
                Vec::new()
            }
            Command::LoginFailed(error) => self.session.login_failed(&error, &now),
            Command::Login(options, reply) => {
                self.log_in(options, reply);
                Vec::new()
            }
            Command::LoginSecret(reply) => {
                let _ = reply.send(self.session.login_secret());
                Vec::new()
            }
            Command::SetClientSecret(secret, reply) => {
                let item = secret.clone().map(Item::ClientSecret);
                let put = put(
                    Arc::clone(&self.store),
                    self.account.clone(),
                    item,
                    ItemKind::ClientSecret,
                    self.clock.clone(),
                );
                self.tasks
                    .spawn(async move { Completion::ClientSecretSet(put.await.map(|()| secret), reply) });
                Vec::new()
            }
            Command::SetPersonalToken(token, reply) => {
                self.set_personal_token(token, reply);
                Vec::new()
            }
            Command::LogoutPersonal(reply) => {
                self.set_personal_token(None, reply);
                Vec::new()
            }
            Command::Ping(reply) => {
                let _ = reply.send(());
                Vec::new()
            }
            Command::Interrupt(interruption) => match interruption {
                Interruption::Suspending => self.session.going_to_sleep(&now),
                Interruption::Awake => {
                    self.budget.network_changed();
                    self.session.woke_up(&now)
                }
                Interruption::OtherNetwork => {
                    self.budget.network_changed();
                    self.session.network_changed(&now)
                }
                Interruption::Reloaded => self.session.configuration_read(&now),
            },
            Command::Stop(_) => Vec::new(),
        };
        self.perform(effects);
    }

    fn set_personal_token(
        &mut self,
        token: Option<PersonalToken>,
        reply: oneshot::Sender<Result<(), Error>>,
    ) {
        let item = token.clone().map(Item::PersonalToken);
        let put = put(
            Arc::clone(&self.store),
            self.account.clone(),
            item,
            ItemKind::PersonalToken,
            self.clock.clone(),
        );
        self.tasks.spawn(async move { Completion::PersonalTokenSet(put.await.map(|()| token), reply) });
    }

    fn complete(&mut self, done: Result<Completion, tokio::task::JoinError>) {
        let now = self.clock.now();
        let account = self.account.as_str();
        let effects = match done {
            Ok(Completion::Loaded(result)) => self.session.loaded(result, &now),
            Ok(Completion::Refreshed(result)) => {
                self.give_up = None;
                self.budget.outcome(result.as_ref().err(), &now);
                self.session.refreshed(result, &now, self.jitter())
            }
            Ok(Completion::Written(sequence, result)) => {
                if result.is_ok() {
                    self.recovery.release(&self.account, sequence);
                }
                self.session.written(sequence, result, &now, self.jitter())
            }
            Ok(Completion::EndedAtProvider(ended)) => self.session.ended_at_provider(ended, &now),
            Ok(Completion::ClientSecretSet(Ok(secret), reply)) => {
                let _ = reply.send(Ok(()));
                self.session.client_secret_set(secret, &now)
            }
            Ok(Completion::PersonalTokenSet(Ok(token), reply)) => {
                let _ = reply.send(Ok(()));
                self.session.personal_token_set(token, &now)
            }
            Ok(
                Completion::ClientSecretSet(Err(error), reply)
                | Completion::PersonalTokenSet(Err(error), reply),
            ) => {
                let _ = reply.send(Err(text::not_stored(account, &error)));
                Vec::new()
            }
            Ok(Completion::Begun(begun)) => {
                self.begun(begun, &now);
                Vec::new()
            }
            Ok(Completion::LoginOver) => {
                self.login = self.login.take().filter(|attempt| attempt.is_pending());
                Vec::new()
            }
            Ok(Completion::Nothing) => Vec::new(),
            Err(error) => {
                tracing::error!(account, %error, "a task of the session ended abnormally");
                Vec::new()
            }
        };
        self.perform(effects);
    }

    /// Keeps the machine awake for what must not be cut off.
    fn tell_busy(&mut self) {
        match (self.session.is_busy(), &self.busy_guard) {
            (true, None) => self.busy_guard = Some(self.busy.guard()),
            (false, Some(_)) => self.busy_guard = None,
            _ => {}
        }
    }

    fn park(&mut self, reply: oneshot::Sender<Answer>) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.waiting.insert(id, reply);
        id
    }

    fn jitter(&self) -> Jitter {
        Jitter((self.dice)())
    }

    pub(super) fn publish(&self) {
        let now = self.clock.now();
        self.handle.warm.put(self.session.warm(&now));
        let view = self.session.view(&now);
        self.publisher.send_if_modified(|published| {
            let login = self.login.as_ref().map(|attempt| &attempt.id);
            let changed =
                published.view != view || published.login.as_ref().map(|attempt| &attempt.id) != login;
            if changed {
                *published = Published { view, login: self.login.clone() };
            }
            changed
        });
    }
}

/// Writes or removes an item for a user who is waiting, and lets the keyring ask if it is locked.
async fn put<S: Store>(
    store: Arc<S>,
    account: AccountName,
    item: Option<Item>,
    kind: ItemKind,
    clock: Clock,
) -> Result<(), StoreError> {
    let write = || async {
        match item.clone() {
            Some(item) => store.save(&account, item).await,
            None => store.erase(&account, kind).await,
        }
    };
    match write().await {
        Err(StoreError::Locked) => {
            tokio::select! {
                biased;
                unlocked = store.unlock() => unlocked?,
                () = clock.sleep(UNLOCK_WAIT) => return Err(StoreError::Locked),
            }
            write().await
        }
        result => result,
    }
}

async fn sleep(clock: &Clock, deadline: Option<crate::clock::BootTime>) {
    match deadline {
        Some(deadline) => clock.sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A random number from 0 to 1; one half should the operating system have none.
#[must_use]
pub fn system_dice() -> f64 {
    getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX))
}
