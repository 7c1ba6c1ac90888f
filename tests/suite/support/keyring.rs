//! A private message bus, a fake Secret Service that misbehaves on demand, and a real gnome-keyring.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]
#![allow(clippy::used_underscore_binding, reason = "zbus's macro names arguments that are not read")]
#![allow(clippy::struct_excessive_bools, reason = "each one is a switch of its own for the tests")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use zbus::object_server::ObjectServer;
use zbus::zvariant::{ObjectPath, OwnedObjectPath, OwnedValue, Value};
use zbus::{Connection, fdo, interface};

/// The longest wait for anything that must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const NAME: &str = "org.freedesktop.secrets";
const ROOT: &str = "/org/freedesktop/secrets";

/// A dbus-daemon of its own, without any service files but what a test gives it.
pub(crate) struct Bus {
    daemon: Child,
    pub(crate) address: String,
    pub(crate) folder: tempfile::TempDir,
}

impl Bus {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    /// With one activation file.
    pub(crate) async fn with_service(name: &str, text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("services")).unwrap();
        std::fs::write(folder.path().join("services").join(name), text).unwrap();
        Self::start_in(folder).await
    }

    async fn start_in(folder: tempfile::TempDir) -> Self {
        let config = folder.path().join("bus.conf");
        let text = format!(
            r#"<busconfig><type>session</type><listen>unix:path={0}/bus</listen>
            <servicedir>{0}/services</servicedir>
            <policy context="default"><allow send_destination="*" eavesdrop="true"/>
            <allow eavesdrop="true"/><allow own="*"/></policy>
            <limit name="max_replies_per_connection">50000</limit></busconfig>"#,
            folder.path().display()
        );
        std::fs::write(&config, text).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--print-address"])
            .env("HOME", folder.path())
            .env("XDG_CONFIG_HOME", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap();
        Self { daemon, address: line.unwrap(), folder }
    }

    /// As at the end of a session.
    pub(crate) async fn end(&mut self) {
        self.daemon.kill().await.unwrap();
    }

    pub(crate) async fn connect(&self) -> Connection {
        zbus::connection::Builder::address(self.address.as_str()).unwrap().build().await.unwrap()
    }

    /// Waits until the service's name has an owner, or none.
    pub(crate) async fn wait_for_owner(&self, wanted: bool) {
        let connection = self.connect().await;
        let bus = fdo::DBusProxy::new(&connection).await.unwrap();
        let mut signals = bus.receive_name_owner_changed_with_args(&[(0, NAME)]).await.unwrap();
        let name = zbus::names::BusName::try_from(NAME).unwrap();
        let wait = async {
            while bus.name_has_owner(name.clone()).await.unwrap() != wanted {
                signals.next().await.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.unwrap();
    }
}

/// What the person in front of the fake's dialogs does.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Person {
    #[default]
    Accepts,
    Dismisses,
    /// Answers when the test says so, with [`Fake::answer_prompts`].
    IsAway,
}

#[derive(Clone)]
pub(crate) struct FakeItem {
    pub(crate) collection: String,
    pub(crate) label: String,
    pub(crate) attributes: HashMap<String, String>,
    pub(crate) secret: Vec<u8>,
    pub(crate) content_type: String,
    pub(crate) modified: u64,
    pub(crate) locked: bool,
}

#[derive(Default)]
pub(crate) struct State {
    /// Names, and whether they are locked.
    pub(crate) collections: BTreeMap<String, bool>,
    pub(crate) default: Option<String>,
    pub(crate) items: BTreeMap<u32, FakeItem>,
    pub(crate) person: Person,
    pub(crate) hangs: bool,
    pub(crate) drops_writes: bool,
    /// As KWallet does with a key of its own: the next creation fails, and leaves an empty item.
    pub(crate) decrypts_badly: bool,
    pub(crate) creates_by_prompt: bool,
    pub(crate) deletes_by_prompt: bool,
    /// The method names that were called, in order.
    pub(crate) calls: Vec<String>,
    pub(crate) searching: usize,
    pub(crate) most_searching: usize,
    sessions: HashSet<OwnedObjectPath>,
    next: u32,
    waiting: Vec<(OwnedObjectPath, Action)>,
}

/// What a prompt is for.
#[derive(Clone)]
enum Action {
    Unlock(Vec<OwnedObjectPath>),
    Create(FakeItem),
    Delete(u32),
}

type Secret = (OwnedObjectPath, Vec<u8>, Vec<u8>, String);

#[derive(zbus::DBusError, Debug)]
#[zbus(prefix = "org")]
enum SecretError {
    #[zbus(error)]
    ZBus(zbus::Error),
    #[zbus(name = "freedesktop.Secret.Error.IsLocked")]
    IsLocked(String),
    #[zbus(name = "freedesktop.Secret.Error.NoSession")]
    NoSession(String),
    #[zbus(name = "freedesktop.Secret.Error.NoSuchObject")]
    NoSuchObject(String),
    #[zbus(name = "qtproject.QtDBus.Error.InvalidObjectPath")]
    InvalidObjectPath(String),
}

/// A Secret Service without encryption, under the real name on a private bus.
#[derive(Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    connection: Arc<Mutex<Option<Connection>>>,
}

impl Fake {
    /// One unlocked collection `login`, which is the default.
    pub(crate) async fn start(bus: &Bus) -> Self {
        let state = State {
            collections: BTreeMap::from([("login".to_owned(), false)]),
            default: Some("login".to_owned()),
            ..State::default()
        };
        let fake = Self { state: Arc::new(Mutex::new(state)), connection: Arc::default() };
        fake.appear(bus).await;
        fake
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Leaves the bus; what is stored stays, sessions don't.
    pub(crate) async fn disappear(&self, bus: &Bus) {
        let connection = self.connection.lock().unwrap().take().unwrap();
        connection.close().await.unwrap();
        bus.wait_for_owner(false).await;
        self.state().sessions.clear();
    }

    pub(crate) async fn appear(&self, bus: &Bus) {
        let connection = bus.connect().await;
        let server = connection.object_server();
        server.at(ROOT, FakeService(self.clone())).await.unwrap();
        let (collections, items) = {
            let state = self.state();
            (
                state.collections.keys().cloned().collect::<Vec<_>>(),
                state.items.iter().map(|(id, item)| (*id, item.collection.clone())).collect::<Vec<_>>(),
            )
        };
        for name in collections {
            let object = FakeCollection { fake: self.clone(), name: name.clone() };
            server.at(collection_path(&name), object).await.unwrap();
        }
        for (id, collection) in items {
            server.at(item_path(&collection, id), ItemObject { fake: self.clone(), id }).await.unwrap();
        }
        connection.request_name(NAME).await.unwrap();
        *self.connection.lock().unwrap() = Some(connection);
    }

    /// Puts an item in as another program would.
    pub(crate) async fn plant(&self, attributes: &[(&str, &str)], secret: &str, modified: u64) -> u32 {
        let attributes = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let item = FakeItem {
            collection: "login".to_owned(),
            label: String::new(),
            attributes,
            secret: secret.into(),
            content_type: "text/plain".to_owned(),
            modified,
            locked: false,
        };
        let connection = self.connection.lock().unwrap().clone().unwrap();
        self.insert(connection.object_server(), item).await
    }

    /// Locks or unlocks a collection and says so.
    pub(crate) async fn set_locked(&self, name: &str, locked: bool) {
        self.state().collections.insert(name.to_owned(), locked);
        let connection = self.connection.lock().unwrap().clone().unwrap();
        let path = collection_path(name);
        let object = connection.object_server().interface::<_, FakeCollection>(path).await.unwrap();
        object.get().await.locked_changed(object.signal_emitter()).await.unwrap();
    }

    /// Forgets all sessions without leaving the bus.
    pub(crate) fn end_sessions(&self) {
        self.state().sessions.clear();
    }

    /// Emits `CollectionChanged` so many times.
    pub(crate) async fn chatter(&self, times: usize) {
        let connection = self.connection.lock().unwrap().clone().unwrap();
        let object = connection.object_server().interface::<_, FakeService>(ROOT).await.unwrap();
        for _ in 0..times {
            FakeService::collection_changed(object.signal_emitter(), collection_path("login")).await.unwrap();
        }
    }

    /// A dialog that waits for the person.
    pub(crate) fn dialog(&self) -> Option<OwnedObjectPath> {
        self.state().waiting.first().map(|(path, _)| path.clone())
    }

    /// The person comes back to the open dialogs.
    pub(crate) async fn answer_prompts(&self, accept: bool) {
        let waiting = std::mem::take(&mut self.state().waiting);
        let connection = self.connection.lock().unwrap().clone().unwrap();
        for (path, action) in waiting {
            self.complete(&connection, &path, action, accept).await;
        }
    }

    pub(crate) fn count(&self, call: &str) -> usize {
        self.state().calls.iter().filter(|it| *it == call).count()
    }

    async fn insert(&self, server: &ObjectServer, item: FakeItem) -> u32 {
        let (id, path) = {
            let mut state = self.state();
            state.next += 1;
            let id = state.next;
            let path = item_path(&item.collection, id);
            state.items.insert(id, item);
            (id, path)
        };
        server.at(path, ItemObject { fake: self.clone(), id }).await.unwrap();
        id
    }

    async fn complete(&self, connection: &Connection, path: &OwnedObjectPath, action: Action, accept: bool) {
        let mut result = Value::from("");
        if accept {
            match action {
                Action::Unlock(objects) => {
                    let mut state = self.state();
                    for object in &objects {
                        let last = object.rsplit('/').next().unwrap_or_default();
                        match last.parse::<u32>().ok().and_then(|id| state.items.get_mut(&id)) {
                            Some(item) => item.locked = false,
                            None => drop(state.collections.insert(last.to_owned(), false)),
                        }
                    }
                }
                Action::Create(item) => {
                    let collection = item.collection.clone();
                    let id = self.insert(connection.object_server(), item).await;
                    result = Value::from(item_path(&collection, id).into_inner());
                }
                Action::Delete(id) => drop(self.state().items.remove(&id)),
            }
        }
        let object = connection.object_server().interface::<_, FakePrompt>(path.clone()).await.unwrap();
        FakePrompt::completed(object.signal_emitter(), !accept, result).await.unwrap();
    }

    async fn prompt(&self, server: &ObjectServer, action: Action) -> OwnedObjectPath {
        let path = {
            let mut state = self.state();
            state.next += 1;
            OwnedObjectPath::try_from(format!("{ROOT}/prompt/p{}", state.next)).unwrap()
        };
        server.at(path.clone(), FakePrompt { fake: self.clone(), action }).await.unwrap();
        path
    }

    /// Notes the call, and never comes back from it when the fake hangs.
    async fn enter(&self, call: &str) {
        let hangs = {
            let mut state = self.state();
            state.calls.push(call.to_owned());
            state.hangs
        };
        if hangs {
            std::future::pending::<()>().await;
        }
    }
}

fn collection_path(name: &str) -> OwnedObjectPath {
    OwnedObjectPath::try_from(format!("{ROOT}/collection/{name}")).unwrap()
}

fn item_path(collection: &str, id: u32) -> OwnedObjectPath {
    OwnedObjectPath::try_from(format!("{ROOT}/collection/{collection}/{id}")).unwrap()
}

fn no_object() -> OwnedObjectPath {
    OwnedObjectPath::try_from("/").unwrap()
}

struct FakeService(Fake);

#[interface(name = "org.freedesktop.Secret.Service")]
impl FakeService {
    async fn open_session(
        &self,
        algorithm: &str,
        _input: Value<'_>,
    ) -> fdo::Result<(OwnedValue, OwnedObjectPath)> {
        self.0.enter("OpenSession").await;
        if algorithm != "plain" {
            return Err(fdo::Error::NotSupported("no such algorithm".to_owned()));
        }
        let mut state = self.0.state();
        state.next += 1;
        let path = OwnedObjectPath::try_from(format!("{ROOT}/session/s{}", state.next)).unwrap();
        state.sessions.insert(path.clone());
        Ok((OwnedValue::try_from(Value::from("")).unwrap(), path))
    }

    async fn read_alias(&self, name: &str) -> OwnedObjectPath {
        self.0.enter("ReadAlias").await;
        let default = self.0.state().default.clone().filter(|_| name == "default");
        default.map_or_else(no_object, |name| collection_path(&name))
    }

    async fn unlock(
        &self,
        objects: Vec<OwnedObjectPath>,
        #[zbus(object_server)] server: &ObjectServer,
    ) -> (Vec<OwnedObjectPath>, OwnedObjectPath) {
        self.0.enter("Unlock").await;
        (Vec::new(), self.0.prompt(server, Action::Unlock(objects)).await)
    }

    #[zbus(property)]
    async fn collections(&self) -> Vec<OwnedObjectPath> {
        self.0.enter("Collections").await;
        self.0.state().collections.keys().map(|name| collection_path(name)).collect()
    }

    #[zbus(signal)]
    async fn collection_changed(
        emitter: &zbus::object_server::SignalEmitter<'_>,
        collection: OwnedObjectPath,
    ) -> zbus::Result<()>;
}

struct FakeCollection {
    fake: Fake,
    name: String,
}

#[interface(name = "org.freedesktop.Secret.Collection")]
impl FakeCollection {
    async fn search_items(&self, attributes: HashMap<String, String>) -> Vec<OwnedObjectPath> {
        self.fake.enter("SearchItems").await;
        {
            let mut state = self.fake.state();
            state.searching += 1;
            state.most_searching = state.most_searching.max(state.searching);
        }
        tokio::task::yield_now().await;
        let mut state = self.fake.state();
        state.searching -= 1;
        let matches = |item: &FakeItem| {
            item.collection == self.name && attributes.iter().all(|(k, v)| item.attributes.get(k) == Some(v))
        };
        let found = state.items.iter().filter(|(_, item)| matches(item));
        found.map(|(id, _)| item_path(&self.name, *id)).collect()
    }

    async fn create_item(
        &self,
        properties: HashMap<String, OwnedValue>,
        secret: Secret,
        replace: bool,
        #[zbus(object_server)] server: &ObjectServer,
    ) -> Result<(OwnedObjectPath, OwnedObjectPath), SecretError> {
        self.fake.enter(if replace { "CreateItem(replace)" } else { "CreateItem" }).await;
        let property = |name: &str| properties[&format!("org.freedesktop.Secret.Item.{name}")].clone();
        let (item, by_prompt, spoiled) = {
            let mut state = self.fake.state();
            if state.collections[&self.name] {
                return Err(SecretError::IsLocked(String::new()));
            }
            check_session(&state, &secret.0)?;
            state.next += 1;
            let spoiled = std::mem::take(&mut state.decrypts_badly);
            let item = FakeItem {
                collection: self.name.clone(),
                label: property("Label").try_into().unwrap(),
                attributes: property("Attributes").try_into().unwrap(),
                secret: if spoiled || state.drops_writes { Vec::new() } else { secret.2 },
                content_type: secret.3,
                modified: state.next.into(),
                locked: false,
            };
            (item, state.creates_by_prompt, spoiled)
        };
        if by_prompt {
            return Ok((no_object(), self.fake.prompt(server, Action::Create(item)).await));
        }
        let id = self.fake.insert(server, item).await;
        if spoiled {
            return Err(SecretError::InvalidObjectPath(String::new()));
        }
        Ok((item_path(&self.name, id), no_object()))
    }

    #[zbus(property)]
    async fn locked(&self) -> bool {
        self.fake.enter("Locked").await;
        self.fake.state().collections[&self.name]
    }
}

fn check_session(state: &State, session: &OwnedObjectPath) -> Result<(), SecretError> {
    if state.sessions.contains(session) { Ok(()) } else { Err(SecretError::NoSession(String::new())) }
}

struct ItemObject {
    fake: Fake,
    id: u32,
}

impl ItemObject {
    fn readable<'a>(&self, state: &'a mut State) -> Result<&'a mut FakeItem, SecretError> {
        let missing = || SecretError::NoSuchObject(String::new());
        let item = state.items.get_mut(&self.id).ok_or_else(missing)?;
        if item.locked || state.collections[&item.collection] {
            return Err(SecretError::IsLocked(String::new()));
        }
        Ok(item)
    }
}

#[interface(name = "org.freedesktop.Secret.Item")]
impl ItemObject {
    async fn get_secret(&self, session: OwnedObjectPath) -> Result<(Secret,), SecretError> {
        self.fake.enter("GetSecret").await;
        let mut state = self.fake.state();
        check_session(&state, &session)?;
        let item = self.readable(&mut state)?;
        Ok(((session, Vec::new(), item.secret.clone(), item.content_type.clone()),))
    }

    async fn set_secret(&self, secret: Secret) -> Result<(), SecretError> {
        self.fake.enter("SetSecret").await;
        let mut state = self.fake.state();
        check_session(&state, &secret.0)?;
        let drops_writes = state.drops_writes;
        let item = self.readable(&mut state)?;
        if !drops_writes {
            item.secret = secret.2;
            item.modified += 1;
        }
        Ok(())
    }

    async fn delete(
        &self,
        #[zbus(object_server)] server: &ObjectServer,
    ) -> Result<OwnedObjectPath, SecretError> {
        self.fake.enter("Delete").await;
        let by_prompt = {
            let mut state = self.fake.state();
            self.readable(&mut state)?;
            if !state.deletes_by_prompt {
                state.items.remove(&self.id);
            }
            state.deletes_by_prompt
        };
        if by_prompt { Ok(self.fake.prompt(server, Action::Delete(self.id)).await) } else { Ok(no_object()) }
    }

    #[zbus(property)]
    fn locked(&self) -> bool {
        let state = self.fake.state();
        state.items.get(&self.id).is_some_and(|item| item.locked || state.collections[&item.collection])
    }

    #[zbus(property)]
    fn attributes(&self) -> HashMap<String, String> {
        self.fake.state().items.get(&self.id).map(|item| item.attributes.clone()).unwrap_or_default()
    }

    #[zbus(property)]
    fn modified(&self) -> u64 {
        self.fake.state().items.get(&self.id).map_or(0, |item| item.modified)
    }
}

struct FakePrompt {
    fake: Fake,
    action: Action,
}

#[interface(name = "org.freedesktop.Secret.Prompt")]
impl FakePrompt {
    async fn prompt(
        &self,
        _window: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] header: zbus::message::Header<'_>,
    ) {
        self.fake.enter("Prompt").await;
        let path = OwnedObjectPath::from(header.path().unwrap().to_owned());
        let person = self.fake.state().person;
        if person == Person::IsAway {
            self.fake.state().waiting.push((path, self.action.clone()));
            return;
        }
        let (fake, action, connection) = (self.fake.clone(), self.action.clone(), connection.clone());
        tokio::spawn(async move {
            fake.complete(&connection, &path, action, person == Person::Accepts).await;
        });
    }

    async fn dismiss(&self) {
        self.fake.enter("Dismiss").await;
    }

    #[zbus(signal)]
    async fn completed(
        emitter: &zbus::object_server::SignalEmitter<'_>,
        dismissed: bool,
        result: Value<'_>,
    ) -> zbus::Result<()>;
}

/// A real gnome-keyring-daemon with a folder of its own.
pub(crate) struct GnomeKeyring {
    daemon: Child,
}

impl GnomeKeyring {
    /// `None`, with a note, where it is not installed. Its `login` keyring is unlocked.
    pub(crate) async fn start(bus: &Bus) -> Option<Self> {
        match gnome_keyring(bus).args(["--unlock", "--foreground"]).spawn() {
            Ok(mut daemon) => {
                give_password(&mut daemon).await;
                bus.wait_for_owner(true).await;
                Some(Self { daemon })
            }
            Err(error) => {
                eprintln!("skipped: gnome-keyring-daemon does not start: {error}");
                None
            }
        }
    }

    pub(crate) async fn stop(mut self, bus: &Bus) {
        self.daemon.kill().await.unwrap();
        bus.wait_for_owner(false).await;
    }

    /// Unlocks the `login` keyring as PAM does, through the daemon's control socket.
    pub(crate) async fn unlock(&self, bus: &Bus) {
        const UNLOCK: u32 = 1;
        let path = bus.folder.path().join("keyring/control");
        let mut socket = tokio::net::UnixStream::connect(path).await.unwrap();
        let password = b"password";
        let lengths = [12 + 8_u32, UNLOCK, 8].map(u32::to_be_bytes).concat();
        // The first byte carries our credentials.
        socket.write_all(&[&[0], &lengths[..], password].concat()).await.unwrap();
        let mut answer = [0; 8];
        tokio::time::timeout(DEADLINE, socket.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(answer, [0, 0, 0, 8, 0, 0, 0, 0]);
    }
}

async fn give_password(child: &mut Child) {
    child.stdin.take().unwrap().write_all(b"password").await.unwrap();
}

fn gnome_keyring(bus: &Bus) -> Command {
    let home = bus.folder.path();
    let mut command = Command::new("gnome-keyring-daemon");
    command
        .args(["--components=secrets", "--control-directory"])
        .arg(home.join("keyring"))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("XDG_RUNTIME_DIR", home)
        .env("XDG_DATA_HOME", Path::new(home).join("data"))
        .env("DBUS_SESSION_BUS_ADDRESS", &bus.address)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Locks a collection of the service on this bus, as a screen locker does.
pub(crate) async fn lock(connection: &Connection, collection: &str) {
    let collection = ObjectPath::try_from(collection).unwrap();
    let interface = Some("org.freedesktop.Secret.Service");
    connection.call_method(Some(NAME), ROOT, interface, "Lock", &(vec![collection])).await.unwrap();
}
