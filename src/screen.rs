//! The screen's lock, as logind knows it: what the desktop tells it is its `LockedHint`.
//!
//! Nobody else is listened to: a screen saver that is shown is no lock, and `loginctl lock-session` is a
//! request only. Nothing here runs but with `pause_on_lock`.

use std::collections::HashMap;
use std::convert::Infallible;
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
    "logind does not tell whether the screen is locked; pause_on_lock has no effect until it does";
/// How long after a failure logind is asked again.
const RETRY: Duration = Duration::from_secs(5);

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
            let mut told = false;
            match system.await {
                Ok(connection) => loop {
                    let Err(error) = follow(&connection, bus, known, &mut told).await;
                    if !std::mem::replace(&mut told, true) {
                        untold(error);
                    }
                    *known = None;
                    clock.sleep(RETRY).await;
                },
                // There is none to ask again.
                Err(error) => untold(error),
            }
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

/// Goes on until it fails; `told` is whether that was said already.
async fn follow(
    connection: &Connection,
    bus: &Bus,
    known: &mut Option<oneshot::Sender<()>>,
    told: &mut bool,
) -> zbus::Result<Infallible> {
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender(LOGIND)?
        .path_namespace(PATH)?
        .interface("org.freedesktop.DBus.Properties")?
        .build();
    // Before the look, or a change between the two would be missed.
    let mut changes = MessageStream::for_match_rule(rule, connection, None).await?;
    loop {
        bus.screen_locked(is_locked(connection).await?).await;
        *known = None;
        *told = false;
        loop {
            let gone = || zbus::Error::Failure("the system bus is gone".to_owned());
            let change = changes.next().await.ok_or_else(gone)?;
            if matters(&change?) {
                break;
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
