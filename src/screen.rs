//! The screen's lock, as logind knows it: what the desktop tells it is its `LockedHint`.
//!
//! Nobody else is listened to: a screen saver that is shown is no lock, and `loginctl lock-session` is a
//! request only. Nothing here runs but with `pause_on_lock`.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::{oneshot, watch};
use zbus::proxy::CacheProperties;
use zbus::zvariant::{OwnedObjectPath, Value};
use zbus::{Connection, MatchRule, Message, MessageStream};

use crate::bus::Bus;

const LOGIND: &str = "org.freedesktop.login1";
const PATH: &str = "/org/freedesktop/login1";

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
    mut wanted: watch::Receiver<bool>,
    known: oneshot::Sender<()>,
) {
    let mut known = Some(known);
    loop {
        if wanted.wait_for(|wanted| *wanted).await.is_err() {
            return;
        }
        let system = system.clone();
        let follow = async {
            if let Err(error) = follow(system, &bus, &mut known).await {
                tracing::warn!(%error, "logind does not tell whether the screen is locked; pause_on_lock has no effect");
            }
            known = None;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = follow => {}
            unwanted = wanted.wait_for(|wanted| !*wanted) => if unwanted.is_err() { return },
        }
        bus.screen_locked(false).await;
    }
}

async fn follow(
    system: impl Future<Output = zbus::Result<Connection>>,
    bus: &Bus,
    known: &mut Option<oneshot::Sender<()>>,
) -> zbus::Result<()> {
    let connection = system.await?;
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .sender(LOGIND)?
        .path_namespace(PATH)?
        .interface("org.freedesktop.DBus.Properties")?
        .build();
    // Before the look, or a change between the two would be missed.
    let mut changes = MessageStream::for_match_rule(rule, &connection, None).await?;
    loop {
        bus.screen_locked(is_locked(&connection).await?).await;
        *known = None;
        loop {
            let Some(change) = changes.next().await else { return Ok(()) };
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
    session.build().await?.locked_hint().await
}
