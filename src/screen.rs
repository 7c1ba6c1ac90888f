//! The screen's lock, as logind knows it: what the desktop tells it is its `LockedHint`.
//!
//! Nobody else is listened to: a screen saver that is shown is no lock, and `loginctl lock-session` is a
//! request only. Nothing here runs but with `pause_on_lock`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::{oneshot, watch};
use zbus::proxy::CacheProperties;
use zbus::zvariant::{OwnedObjectPath, Value};
use zbus::{Connection, MatchRule, Message, MessageStream, fdo};

use crate::bus::Bus;
use crate::clock::Clock;

const LOGIND: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";
const UNTOLD: &str =
    "logind does not tell whether the screen is locked; pause_on_lock has no effect on what it does not tell";
/// How long after a failure logind is asked again; twice as long after each further one, up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// Nobody reads the signals during a look, and once they are too many nothing else is read from the bus, the answer
/// neither.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1",
    gen_blocking = false
)]
trait Manager {
    fn get_user(&self, uid: u32) -> zbus::Result<OwnedObjectPath>;
}

#[zbus::proxy(
    interface = "org.freedesktop.login1.User",
    default_service = "org.freedesktop.login1",
    gen_blocking = false
)]
trait User {
    /// The session that the user sees; its path is "/" when there is none.
    #[zbus(property)]
    fn display(&self) -> zbus::Result<(String, OwnedObjectPath)>;
}

#[zbus::proxy(
    interface = "org.freedesktop.login1.Session",
    default_service = "org.freedesktop.login1",
    gen_blocking = false
)]
trait Session {
    #[zbus(property)]
    fn locked_hint(&self) -> zbus::Result<bool>;
}

/// While it is `wanted`, tells the bus whether the user's screen is locked. `known` ends when that has been
/// found out, or cannot be.
pub(crate) async fn watch(
    system: impl Future<Output = zbus::Result<Connection>> + Clone,
    bus: Arc<Bus>,
    clock: Clock,
    mut wanted: watch::Receiver<bool>,
    known: oneshot::Sender<()>,
) {
    let mut known = Some(known);
    loop {
        if wanted.wait_for(|wanted| *wanted).await.is_err() {
            return;
        }
        let (system, bus, clock, known) = (system.clone(), &bus, &clock, &mut known);
        let follow = async move {
            let untold = |error: zbus::Error| tracing::warn!(%error, "{UNTOLD}");
            let (mut told, mut wait) = (false, RETRY.0);
            match system.await {
                Ok(connection) => {
                    while let Err(error) = follow(&connection, bus, clock, known, &mut told).await {
                        if !std::mem::replace(&mut told, true) {
                            untold(error);
                            wait = RETRY.0;
                        }
                        *known = None;
                        clock.sleep(wait).await;
                        wait = RETRY.1.min(wait * 2);
                    }
                }
                Err(error) => untold(error),
            }
            // There is no bus to ask again.
            *known = None;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = follow => {}
            unwanted = wanted.wait_for(|wanted| !*wanted) => if unwanted.is_err() { return },
        }
        bus.screen_locked(false).await;
    }
}

/// Goes on until it fails, or the bus has ended; `told` is whether a failure was said already.
async fn follow(
    connection: &Connection,
    bus: &Bus,
    clock: &Clock,
    known: &mut Option<oneshot::Sender<()>>,
    told: &mut bool,
) -> zbus::Result<()> {
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender(LOGIND)?
        .path_namespace(PATH)?
        .interface("org.freedesktop.DBus.Properties")?
        .build();
    // Before the look, or a change between the two would be missed.
    let mut changes = MessageStream::for_match_rule(rule, connection, None).await?;
    // A logind that was started anew may know another hint, and tells nobody of that.
    let names = fdo::DBusProxy::new(connection).await?;
    let mut owners = names.receive_name_owner_changed_with_args(&[(0, LOGIND)]).await?;
    loop {
        let silent = || Err(zbus::Error::Failure("logind does not answer".to_owned()));
        let locked = clock.within(LOOK_TIMEOUT, is_locked(connection)).await.unwrap_or_else(silent);
        bus.screen_locked(locked?).await;
        *known = None;
        *told = false;
        loop {
            tokio::select! {
                change = changes.next() => match change {
                    Some(change) => if matters(&change?) { break },
                    None => return Ok(()),
                },
                owner = owners.next() => if owner.is_some() { break } else { return Ok(()) },
            }
        }
    }
}

/// Whether a session was locked or unlocked, or another one is the user's now.
fn matters(change: &Message) -> bool {
    let body = change.body();
    let Ok((_, changed, gone)) = body.deserialize::<(&str, HashMap<&str, Value<'_>>, Vec<&str>)>() else {
        return false;
    };
    ["LockedHint", "Display"].iter().any(|name| changed.contains_key(name) || gone.contains(name))
}

async fn is_locked(connection: &Connection) -> zbus::Result<bool> {
    let user = ManagerProxy::new(connection).await?.get_user(rustix::process::getuid().as_raw()).await?;
    let user = UserProxy::builder(connection).path(user)?.cache_properties(CacheProperties::No);
    let (_, session) = user.build().await?.display().await?;
    if session.as_str() == "/" {
        return Ok(false);
    }
    let session = SessionProxy::builder(connection).path(session)?.cache_properties(CacheProperties::No);
    match session.build().await?.locked_hint().await {
        // It has ended since.
        Err(zbus::Error::FDO(error)) if matches!(*error, fdo::Error::UnknownObject(_)) => Ok(false),
        hint => hint,
    }
}
