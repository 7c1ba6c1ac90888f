//! The daemon's life: assemble, serve, own the name, say ready, wait, drain.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use zbus::Connection;
use zbus::fdo::{self, RequestNameFlags, RequestNameReply};

use crate::access::Access;
use crate::accounts::Accounts;
use crate::bus::direct::Direct;
use crate::bus::{self, Bus};
use crate::clock::Clock;
use crate::config::ConfigDirs;
use crate::logging::Levels;
use crate::recovery::{Lock, Records, Vault};
use crate::store::secret_service::SecretServiceStore;
use crate::{network, power, screen, systemd};

/// How long another daemon may take to end.
const LOCK_WAIT: Duration = Duration::from_secs(20);
const LOCK_POLL: Duration = Duration::from_millis(100);
/// How long proof of life may take before the watchdog is left to bite.
const LIFE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long callers are kept waiting for logind.
const SCREEN_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the daemon could not start or go on: a sentence for the user who reads the journal.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("cannot set up timers: {0}")]
    Clock(#[source] io::Error),
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    #[error("cannot serve on the session bus: {0}")]
    Bus(#[from] zbus::Error),
    #[error(
        "another bearerd of this user runs on another bus; end it first, for both would use the same refresh tokens"
    )]
    Locked,
    #[error("{} was taken from us; to go on run: systemctl --user restart bearerd", bus::NAME)]
    NameLost,
    #[error("another bearerd owns {} on this bus; stop it first: systemctl --user stop bearerd", bus::NAME)]
    NameTaken,
}

/// Runs until SIGTERM, SIGINT or the end of the bus, then finishes and saves what is on its way.
///
/// # Errors
/// When it cannot start.
pub async fn run(
    connection: Connection,
    system: impl Future<Output = zbus::Result<Connection>> + Send + 'static,
    dirs: ConfigDirs,
    vault: Vault,
    levels: Levels,
) -> Result<(), DaemonError> {
    let clock = Clock::system().map_err(DaemonError::Clock)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(DaemonError::Signals)?;

    let _lock = lock(&connection, &clock, &dirs.state).await?;
    let store = SecretServiceStore::new(connection.clone());
    let records = Records::new(dirs.state.clone(), vault);
    let runtime = dirs.runtime.clone();
    let access = Arc::new(Access::new(clock.clone(), &dirs.state));
    let accounts = Arc::new(Accounts::load(dirs, clock.clone(), store, records));
    let (bus, unannounced) =
        Bus::serve(connection.clone(), Arc::clone(&accounts), Arc::clone(&access), levels).await?;
    let losses = fdo::DBusProxy::new(&connection).await?.receive_name_lost_with_args(&[(0, bus::NAME)]).await;
    let mut losses = losses?;
    let system = system.shared();
    look_at_the_screen(system.clone(), &bus, &accounts).await;
    own_name(&connection).await?;
    bus.announce(unannounced);
    let direct = runtime.and_then(|folder| Direct::open(&folder, &bus));
    let mut states = bus.states();
    let mut status = accounts.summary();
    systemd::notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "ready");

    // They end with the runtime.
    tokio::spawn(power::watch(system, Arc::clone(&accounts)));
    {
        let (accounts, clock) = (Arc::clone(&accounts), clock.clone());
        tokio::spawn(async move { network::watch(&accounts, &clock).await });
    }

    let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let mut life = watchdog.map(|every| clock.now().boot.after(every));
    let end = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            () = closed(&connection) => {
                tracing::warn!("the session bus is gone");
                break Ok(());
            }
            Some(_) = losses.next() => break Err(DaemonError::NameLost),
            _ = hangup.recv() => {
                // A task: a stop must not wait to be heard.
                let bus = Arc::clone(&bus);
                tokio::spawn(async move {
                    if let Err(error) = bus.reload().await {
                        tracing::warn!(%error, "the configuration was not read again");
                    }
                });
            }
            Ok(()) = states.changed() => {
                let line = accounts.summary();
                if line != status {
                    systemd::notify(&[NotifyState::Status(&line)]);
                    status = line;
                }
            }
            () = sleep_until(&clock, life) => {
                if is_alive(&connection, &accounts, &clock).await {
                    systemd::notify(&[NotifyState::Watchdog]);
                }
                life = watchdog.map(|every| clock.now().boot.after(every));
            }
        }
    };
    tracing::info!("stopping");
    systemd::notify(&[NotifyState::Stopping]);
    // New callers start the next daemon; this one only finishes what it has begun.
    let _ = connection.release_name(bus::NAME).await;
    drop(direct);
    accounts.stop().await;
    access.close().await;
    end
}

/// Where the screen's lock counts, no caller is answered before it is known.
async fn look_at_the_screen(
    system: impl Future<Output = zbus::Result<Connection>> + Clone + Send + 'static,
    bus: &Arc<Bus>,
    accounts: &Accounts,
) {
    let (known, looked) = oneshot::channel();
    let wanted = accounts.pause_on_lock();
    let waits = *wanted.borrow();
    tokio::spawn(screen::watch(system, Arc::clone(bus), accounts.clock().clone(), wanted, known));
    if waits {
        tokio::select! {
            _ = looked => {}
            () = accounts.clock().sleep(SCREEN_TIMEOUT) => {
                tracing::warn!("logind has not told yet whether the screen is locked");
            }
        }
    }
}

/// One daemon per user. One that is ending is waited for: it may have a refresh token on its way.
async fn lock(connection: &Connection, clock: &Clock, folder: &Path) -> Result<Option<Lock>, DaemonError> {
    let deadline = clock.now().boot.after(LOCK_WAIT);
    loop {
        match Lock::take(folder) {
            Ok(Some(lock)) => return Ok(Some(lock)),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, folder = %folder.display(), "cannot make sure that no other bearerd runs");
                return Ok(None);
            }
        }
        let bus = fdo::DBusProxy::new(connection).await?;
        if bus.name_has_owner(bus::NAME.try_into().map_err(zbus::Error::from)?).await.unwrap_or(false) {
            return Err(DaemonError::NameTaken);
        }
        if clock.now().boot >= deadline {
            return Err(DaemonError::Locked);
        }
        clock.sleep(LOCK_POLL).await;
    }
}

async fn own_name(connection: &Connection) -> Result<(), DaemonError> {
    let flags = RequestNameFlags::DoNotQueue.into();
    match connection.request_name_with_flags(bus::NAME, flags).await {
        Ok(RequestNameReply::PrimaryOwner | RequestNameReply::AlreadyOwner) => Ok(()),
        Ok(RequestNameReply::Exists | RequestNameReply::InQueue) | Err(zbus::Error::NameTaken) => {
            Err(DaemonError::NameTaken)
        }
        Err(error) => Err(error.into()),
    }
}

/// The bus answers and every session's task turns.
async fn is_alive(connection: &Connection, accounts: &Accounts, clock: &Clock) -> bool {
    let proof = async {
        let bus = fdo::PeerProxy::builder(connection)
            .destination("org.freedesktop.DBus")?
            .path("/org/freedesktop/DBus")?
            .build()
            .await?;
        bus.ping().await?;
        Ok::<bool, zbus::Error>(accounts.are_alive().await)
    };
    if let Some(proof) = clock.within(LIFE_TIMEOUT, proof).await {
        return proof.unwrap_or(false);
    }
    tracing::error!("no proof of life");
    false
}

async fn closed(connection: &Connection) {
    connection.closed().await;
}

async fn sleep_until(clock: &Clock, deadline: Option<crate::clock::BootTime>) {
    match deadline {
        Some(deadline) => clock.sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
