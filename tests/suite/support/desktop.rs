//! What a desktop has beside a bus: a notification server and a portal, both told what happened to them, and a logind.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![allow(clippy::used_underscore_binding, reason = "zbus's macro names arguments that are not read")]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};

use zbus::Connection;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::{OwnedObjectPath, OwnedValue};

use super::desk::eventually;
use super::keyring::Bus;

const NOTIFICATIONS: &str = "/org/freedesktop/Notifications";
const PORTAL: &str = "/org/freedesktop/portal/desktop";

#[derive(Clone)]
pub(crate) struct Card {
    pub(crate) summary: String,
    pub(crate) body: String,
    pub(crate) actions: Vec<String>,
}

/// What the user sees, and how many were ever shown.
#[derive(Default)]
pub(crate) struct Shown {
    pub(crate) open: BTreeMap<u32, Card>,
    pub(crate) shown: u32,
}

pub(crate) struct NotificationServer {
    pub(crate) shown: Arc<Mutex<Shown>>,
    connection: Connection,
}

impl NotificationServer {
    pub(crate) async fn start(bus: &Bus) -> Self {
        let shown = Arc::new(Mutex::new(Shown::default()));
        let connection = bus.connect().await;
        connection.object_server().at(NOTIFICATIONS, Notifications(Arc::clone(&shown))).await.unwrap();
        connection.request_name("org.freedesktop.Notifications").await.unwrap();
        Self { shown, connection }
    }

    /// The oldest of those that are open.
    pub(crate) fn card(&self) -> Option<(u32, Card)> {
        self.shown.lock().unwrap().open.iter().map(|(id, card)| (*id, card.clone())).next()
    }

    /// Waits until there is one.
    pub(crate) async fn until_card(&self) -> (u32, Card) {
        assert!(eventually(async || self.card().is_some()).await, "no notification came");
        self.card().unwrap()
    }

    /// As GNOME Shell does: the token first.
    pub(crate) async fn click(&self, id: u32, action: &str, activation: &str) {
        Notifications::activation_token(&self.emitter(), id, activation).await.unwrap();
        Notifications::action_invoked(&self.emitter(), id, action).await.unwrap();
    }

    pub(crate) async fn dismiss(&self, id: u32) {
        self.shown.lock().unwrap().open.remove(&id);
        Notifications::notification_closed(&self.emitter(), id, 2).await.unwrap();
    }

    fn emitter(&self) -> SignalEmitter<'static> {
        SignalEmitter::new(&self.connection, NOTIFICATIONS).unwrap().into_owned()
    }
}

/// Some other program's signal that looks like the notification server's, to one connection alone: nobody's match
/// rule is asked then. The bus has passed it on when this ends.
pub(crate) async fn pretend(bus: &Bus, to: &str, member: &str, body: &(u32, &str)) {
    let stranger = bus.connect().await;
    let interface = "org.freedesktop.Notifications";
    stranger.emit_signal(Some(to), NOTIFICATIONS, interface, member, body).await.unwrap();
    zbus::fdo::DBusProxy::new(&stranger).await.unwrap().get_id().await.unwrap();
}

struct Notifications(Arc<Mutex<Shown>>);

#[zbus::interface(name = "org.freedesktop.Notifications")]
impl Notifications {
    #[expect(clippy::too_many_arguments, reason = "as the specification has it")]
    fn notify(
        &self,
        app_name: String,
        replaces_id: u32,
        _app_icon: String,
        summary: String,
        body: String,
        actions: Vec<String>,
        _hints: HashMap<String, OwnedValue>,
        _expire_timeout: i32,
    ) -> u32 {
        assert_eq!(app_name, "bearerd");
        let mut state = self.0.lock().unwrap();
        state.shown += 1;
        let id = if replaces_id > 0 { replaces_id } else { state.shown };
        state.open.insert(id, Card { summary, body, actions });
        id
    }

    fn get_capabilities(&self) -> Vec<&'static str> {
        vec!["actions", "body"]
    }

    fn close_notification(&self, id: u32) {
        self.0.lock().unwrap().open.remove(&id);
    }

    #[zbus(signal)]
    async fn action_invoked(emitter: &SignalEmitter<'_>, id: u32, action_key: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn activation_token(emitter: &SignalEmitter<'_>, id: u32, token: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    async fn notification_closed(emitter: &SignalEmitter<'_>, id: u32, reason: u32) -> zbus::Result<()>;
}

/// A portal, and the addresses and activation tokens that it was given.
pub(crate) struct Portal {
    pub(crate) opened: Arc<Mutex<Vec<(String, String)>>>,
    _connection: Connection,
}

impl Portal {
    pub(crate) async fn start(bus: &Bus) -> Self {
        let opened = Arc::new(Mutex::new(Vec::new()));
        let connection = bus.connect().await;
        connection.object_server().at(PORTAL, OpenUri(Arc::clone(&opened))).await.unwrap();
        connection.request_name("org.freedesktop.portal.Desktop").await.unwrap();
        Self { opened, _connection: connection }
    }
}

struct OpenUri(Arc<Mutex<Vec<(String, String)>>>);

#[zbus::interface(name = "org.freedesktop.portal.OpenURI")]
impl OpenUri {
    #[zbus(name = "OpenURI")]
    fn open_uri(&self, _parent: &str, uri: String, options: HashMap<String, OwnedValue>) -> OwnedObjectPath {
        let token = options.get("activation_token").and_then(|token| token.downcast_ref::<String>().ok());
        self.0.lock().unwrap().push((uri, token.unwrap_or_default()));
        OwnedObjectPath::try_from("/org/freedesktop/portal/desktop/request/1").unwrap()
    }
}

const LOGIND: &str = "/org/freedesktop/login1";
const USER: &str = "/org/freedesktop/login1/user/_self";
const SESSION: &str = "/org/freedesktop/login1/session/c1";

/// A logind on a system bus, with one session at most, of the user who runs the test.
pub(crate) struct Logind {
    connection: Connection,
    _system: Bus,
}

impl Logind {
    /// `socket` is where the system bus is looked for.
    pub(crate) async fn start(socket: &Path, locked: bool) -> Self {
        let system = Bus::start().await;
        std::os::unix::fs::symlink(system.folder.path().join("bus"), socket).unwrap();
        let connection = system.connect().await;
        let server = connection.object_server();
        server.at(LOGIND, LogindManager(true)).await.unwrap();
        server.at(USER, LogindUser(true)).await.unwrap();
        server.at(SESSION, LogindSession(locked)).await.unwrap();
        connection.request_name("org.freedesktop.login1").await.unwrap();
        Self { connection, _system: system }
    }

    pub(crate) async fn lock(&self, locked: bool) {
        let session = self.connection.object_server().interface::<_, LogindSession>(SESSION).await.unwrap();
        session.get_mut().await.0 = locked;
        session.get().await.locked_hint_changed(session.signal_emitter()).await.unwrap();
    }

    /// Whether it answers who asks for a user.
    pub(crate) async fn answers(&self, answers: bool) {
        let manager = self.connection.object_server().interface::<_, LogindManager>(LOGIND).await.unwrap();
        manager.get_mut().await.0 = answers;
    }

    /// It is started anew, and knows of no lock.
    pub(crate) async fn restart(&self) {
        self.connection.release_name("org.freedesktop.login1").await.unwrap();
        let session = self.connection.object_server().interface::<_, LogindSession>(SESSION).await.unwrap();
        session.get_mut().await.0 = false;
        self.connection.request_name("org.freedesktop.login1").await.unwrap();
    }

    /// The session ends, and is the user's still.
    pub(crate) async fn lose_session(&self) {
        let server = self.connection.object_server();
        assert!(server.remove::<LogindSession, _>(SESSION).await.unwrap());
        let user = server.interface::<_, LogindUser>(USER).await.unwrap();
        user.get().await.display_changed(user.signal_emitter()).await.unwrap();
    }

    /// The user logs out.
    pub(crate) async fn end_session(&self) {
        let user = self.connection.object_server().interface::<_, LogindUser>(USER).await.unwrap();
        user.get_mut().await.0 = false;
        user.get().await.display_changed(user.signal_emitter()).await.unwrap();
    }
}

/// Whether it answers.
struct LogindManager(bool);

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl LogindManager {
    fn get_user(&self, uid: u32) -> zbus::fdo::Result<OwnedObjectPath> {
        assert_eq!(uid, rustix::process::getuid().as_raw());
        let user = OwnedObjectPath::try_from(USER).unwrap();
        self.0.then_some(user).ok_or_else(|| zbus::fdo::Error::NoReply("it restarts".to_owned()))
    }
}

/// Whether there is a session.
struct LogindUser(bool);

#[zbus::interface(name = "org.freedesktop.login1.User")]
impl LogindUser {
    #[zbus(property)]
    fn display(&self) -> (String, OwnedObjectPath) {
        let (id, path) = if self.0 { ("c1", SESSION) } else { ("", "/") };
        (id.to_owned(), OwnedObjectPath::try_from(path).unwrap())
    }
}

struct LogindSession(bool);

#[zbus::interface(name = "org.freedesktop.login1.Session")]
impl LogindSession {
    #[zbus(property)]
    fn locked_hint(&self) -> bool {
        self.0
    }
}
