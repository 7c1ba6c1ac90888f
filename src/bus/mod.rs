//! The D-Bus side: parses, asks a session, maps the error. No decision is made here.
//!
//! **Invariant:** objects are served before anybody is told of them, and before the name is requested.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use zbus::Connection;
use zbus::names::InterfaceName;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{OwnedObjectPath, Value};

use crate::access::Access;
use crate::account::AccountName;
use crate::accounts::{Account as Configured, Accounts};
use crate::clock::Clock;
use crate::hooks;
use crate::logging::Levels;
use crate::login::Attempt;
use crate::session::{Bucket, Published};
use notifications::Notifier;

mod access;
mod account;
mod broker;
mod caller;
pub(crate) mod direct;
mod error;
mod gate;
pub(crate) mod handshake;
mod log_control;
mod login;
mod notification_server;
mod notifications;
mod options;
mod peer;
mod permission_store;
pub(crate) mod portal;
mod prompt;
pub(crate) mod secret_fd;

pub(crate) use crate::client::ACCOUNT_INTERFACE;
pub use crate::client::{Error, NAME, ROOT_PATH, proxy};
use gate::Gate;
use log_control::LogControl;

const LOGIN_INTERFACE: &str = "org.bearerd.Broker1.Login";
/// A portal may have to be started first, for which the bus has 25 seconds.
const PORTAL_TIMEOUT: Duration = Duration::from_secs(30);
const LOG_CONTROL_PATH: &str = "/org/freedesktop/LogControl1";

/// Everything that is served on one connection.
pub struct Bus {
    connection: Connection,
    accounts: Arc<Accounts>,
    gate: Gate,
    served: Mutex<BTreeMap<AccountName, Served>>,
    logins: Mutex<HashSet<String>>,
    ended_logins: login::Ended,
    in_flight: peer::InFlight,
    /// How many browsers may still be opened, by account.
    browsers: Mutex<BTreeMap<AccountName, Bucket>>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    /// Marked when an account's state has changed.
    states: tokio::sync::watch::Sender<()>,
    notifier: Notifier,
}

/// An account's object, and the task that announces its changes.
struct Served {
    account: Arc<Configured>,
    announcer: AbortHandle,
    hook: Option<AbortHandle>,
}

/// An account whose object is served, and whose changes are not announced yet.
pub struct Unannounced {
    account: Arc<Configured>,
    path: OwnedObjectPath,
    /// What its object has shown, or something older.
    shown: Published,
}

impl Bus {
    /// Serves all objects; the name is not requested yet. The changes of the accounts are to be announced after
    /// that: with a thousand of them, the bus has their messages to read before it comes to the name otherwise.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn serve(
        connection: Connection,
        accounts: Arc<Accounts>,
        access: Arc<Access>,
        levels: Levels,
    ) -> zbus::Result<(Arc<Self>, Vec<Unannounced>)> {
        let clock = accounts.clock().clone();
        let gate = Gate::new(&connection, access, clock.clone()).await?;
        let bus = Arc::new_cyclic(|bus| Self {
            notifier: Notifier::start(bus.clone(), connection.clone(), clock),
            connection,
            accounts,
            gate,
            served: Mutex::default(),
            logins: Mutex::default(),
            ended_logins: login::Ended::default(),
            in_flight: peer::InFlight::default(),
            browsers: Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
            states: tokio::sync::watch::Sender::new(()),
        });
        let server = bus.connection.object_server();
        server.at(ROOT_PATH, zbus::fdo::ObjectManager).await?;
        server.at(LOG_CONTROL_PATH, LogControl::new(Arc::clone(&bus), levels)).await?;
        let new = bus.serve_accounts().await?;
        server.at(ROOT_PATH, access::Access::new(Arc::clone(&bus))).await?;
        server.at(ROOT_PATH, broker::Broker::new(Arc::clone(&bus), peer::Door::Bus)).await?;
        Ok((bus, new))
    }

    /// Reads the configuration again and serves what it says.
    ///
    /// # Errors
    /// `InvalidConfiguration` when it is bad: then everything stays as it was. `Timeout` when a session that
    /// is replaced still waits for its provider; it goes on by itself then.
    pub async fn reload(self: &Arc<Self>) -> Result<(), Error> {
        let bus = Arc::clone(self);
        // A task: it must not end half done with whoever asked for it.
        let reload = tokio::spawn(async move { bus.read_again().await });
        match self.clock().within(gate::BUDGET, reload).await {
            Some(done) => done.unwrap_or_else(|error| Err(zbus::Error::Failure(error.to_string()).into())),
            None => Err(Error::timeout(
                "a changed account waits for its provider; the new configuration is in force when that has \
                 answered; see: bearerctl status",
            )),
        }
    }

    async fn read_again(self: &Arc<Self>) -> Result<(), Error> {
        let _one = self.reloading.lock().await;
        let old_default = self.accounts.default_account();
        let changed = self.accounts.reload().await.map_err(Error::invalid_configuration)?;
        tracing::info!(changed, "configuration read");
        let new = self.serve_accounts().await?;
        self.announce(new);
        if self.accounts.default_account() != old_default {
            let root = self.connection.object_server().interface::<_, broker::Broker>(ROOT_PATH).await?;
            root.get().await.default_account_changed(root.signal_emitter()).await?;
        }
        self.note_state();
        Ok(())
    }

    /// The screen is locked, or not any more: nothing is handed out until then.
    pub(crate) async fn screen_locked(&self, locked: bool) {
        if !self.gate.access.set_locked(locked) {
            return;
        }
        let announced = async {
            let root = self.connection.object_server().interface::<_, access::Access>(ROOT_PATH).await?;
            root.get().await.paused_changed(root.signal_emitter()).await
        };
        if let Err(error) = announced.await {
            tracing::warn!(%error, "cannot announce a change");
        }
    }

    /// Brings the account objects in line with the configured accounts; those that are new.
    async fn serve_accounts(self: &Arc<Self>) -> zbus::Result<Vec<Unannounced>> {
        let configured = self.accounts.list();
        let gone: Vec<AccountName> = {
            let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
            let new: BTreeMap<_, _> = configured.iter().map(|new| (&new.config.name, new)).collect();
            let stays = |name: &AccountName, old: &Served| {
                new.get(name).is_some_and(|new| Arc::ptr_eq(new, &old.account))
            };
            served.iter().filter(|(name, old)| !stays(name, old)).map(|(name, _)| name.clone()).collect()
        };
        for name in gone {
            let removed = self.served.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            if let Some(removed) = removed {
                removed.announcer.abort();
                removed.hook.inspect(AbortHandle::abort);
                self.notifier.tell(&name, None);
            }
            self.connection.object_server().remove::<account::Account, _>(account_path(&name)?).await?;
        }
        let mut new = Vec::new();
        for account in configured {
            let name = &account.config.name;
            if self.served.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name) {
                continue;
            }
            let path = account_path(name)?;
            let shown = account.session.published();
            let object = account::Account::new(Arc::clone(self), Arc::clone(&account));
            self.connection.object_server().at(&path, object).await?;
            new.push(Unannounced { account, path, shown });
        }
        Ok(new)
    }

    /// From now on, the changes of these accounts are told.
    pub fn announce(self: &Arc<Self>, new: Vec<Unannounced>) {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        for new in new {
            // A reload may have come first.
            if served.contains_key(&new.account.config.name) {
                continue;
            }
            let (account, before) = (Arc::clone(&new.account), new.shown.view.state);
            let announcer = tokio::spawn(account::announce(Arc::clone(self), new)).abort_handle();
            let hook = (!account.config.on_change.is_empty()).then(|| {
                tokio::spawn(hooks::follow(Arc::clone(&account), before, self.clock().clone())).abort_handle()
            });
            served.insert(account.config.name.clone(), Served { account, announcer, hook });
        }
    }

    /// Serves an attempt's object, once.
    async fn serve_login(self: &Arc<Self>, attempt: &Arc<Attempt>) -> zbus::Result<OwnedObjectPath> {
        let path = login_path(&attempt.id)?;
        let new = self.logins.lock().unwrap_or_else(PoisonError::into_inner).insert(attempt.id.clone());
        // An object that is there already stays, so a race of two callers is harmless.
        let object = login::Login::new(Arc::clone(self), Arc::clone(attempt));
        self.connection.object_server().at(&path, object).await?;
        if new {
            tokio::spawn(login::announce(Arc::clone(self), Arc::clone(attempt), path.clone()));
        }
        Ok(path)
    }

    async fn drop_login(&self, id: &str, path: &OwnedObjectPath) {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        if let Err(error) = self.connection.object_server().remove::<login::Login, _>(path).await {
            tracing::warn!(%error, "cannot remove a login object");
        }
    }

    /// Whether one more login may open a browser: a program that begins them by itself must not fill the screen (Q3).
    fn may_open_browser(&self, account: &AccountName) -> bool {
        let now = self.clock().now().boot;
        let mut browsers = self.browsers.lock().unwrap_or_else(PoisonError::into_inner);
        browsers.entry(account.clone()).or_insert_with(|| Bucket::forced(now)).take(now)
    }

    async fn open_in_browser(&self, url: &str, activation_token: Option<&str>) -> zbus::Result<()> {
        let opened = portal::open_uri(&self.connection, url, activation_token);
        let silent = || Err(zbus::Error::Failure("the portal does not answer".to_owned()));
        let opened = self.clock().within(PORTAL_TIMEOUT, opened).await.unwrap_or_else(silent);
        opened.inspect(|()| tracing::info!("the portal was asked to open a browser"))
    }

    /// Changes whenever an account's state has changed; many changes at once are one.
    pub fn states(&self) -> tokio::sync::watch::Receiver<()> {
        self.states.subscribe()
    }

    fn note_state(&self) {
        self.states.send_replace(());
    }

    /// One `PropertiesChanged` with all that changed.
    async fn emit_changed(
        &self,
        path: &OwnedObjectPath,
        interface: &'static str,
        changed: HashMap<&str, Value<'_>>,
    ) {
        let emit = async {
            let emitter = SignalEmitter::new(&self.connection, path.as_ref())?;
            let interface = InterfaceName::from_static_str(interface)?;
            zbus::fdo::Properties::properties_changed(&emitter, interface, changed, Cow::Borrowed(&[])).await
        };
        if let Err(error) = emit.await {
            tracing::warn!(%error, path = path.as_str(), "cannot announce a change");
        }
    }

    fn clock(&self) -> &Clock {
        self.accounts.clock()
    }
}

fn account_path(name: &AccountName) -> zbus::Result<OwnedObjectPath> {
    Ok(OwnedObjectPath::try_from(format!("{ROOT_PATH}/account/{}", name.path_element()))?)
}

fn login_path(id: &str) -> zbus::Result<OwnedObjectPath> {
    Ok(OwnedObjectPath::try_from(format!("{ROOT_PATH}/login/{id}"))?)
}

/// "/": no object.
fn no_path() -> OwnedObjectPath {
    zbus::zvariant::ObjectPath::from_static_str_unchecked("/").into()
}
