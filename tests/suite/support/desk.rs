//! A desktop session of its own: bus, provider, configuration, and the real daemon in it.
//!
//! At its end the daemon's log, at trace level, is searched for panics and for everything secret:
//! the provider's tokens, codes and client secret all hold `canary-`.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::HashMap;
use std::io::{Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use bearerd::bus::proxy::{BrokerProxy, LoginProxy, Token};
use bearerd::bus::{Error, NAME, ROOT_PATH};
use bearerd::sandbox::provider::{Provider, Settings};
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use zbus::Connection;
use zbus::proxy::CacheProperties;
use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};

use super::browser::{Browser, Page};
use super::keyring::{Bus, DEADLINE, Fake};

pub(crate) const ACCOUNT: &str = "org.bearerd.Broker1.Account";
pub(crate) const LOGIN: &str = "org.bearerd.Broker1.Login";

pub(crate) struct Desk {
    pub(crate) bus: Bus,
    pub(crate) provider: Provider,
    pub(crate) connection: Connection,
    pub(crate) broker: BrokerProxy<'static>,
    /// What the programs of this session find in their environment beside the usual.
    pub(crate) environment: Vec<(&'static str, String)>,
    daemon: Option<Child>,
}

impl Desk {
    /// With the account `work` configured in memory, and the daemon ready.
    pub(crate) async fn start() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        Self::with_keys(settings, "store = \"memory\"").await
    }

    /// With these keys for the account.
    async fn with_keys(settings: Settings, keys: &str) -> Self {
        let mut desk = Self::bare(settings).await;
        desk.write_config(&desk.account("work", keys));
        desk.start_daemon().await;
        desk.set_secret("work").await;
        desk
    }

    /// With a session.
    pub(crate) async fn logged_in() -> Self {
        let desk = Self::start().await;
        desk.log_in("work").await;
        desk
    }

    /// With a session in memory, and these keys for its account.
    pub(crate) async fn logged_in_with(keys: &str) -> Self {
        let keys = format!("{keys}\nstore = \"memory\"");
        let desk = Self::with_keys(Settings::default(), &keys).await;
        desk.log_in("work").await;
        desk
    }

    /// With a session in a keyring.
    pub(crate) async fn with_keyring() -> (Self, Fake) {
        let mut desk = Self::bare(Settings::default()).await;
        let keyring = Fake::start(&desk.bus).await;
        desk.write_config(&desk.account("work", ""));
        desk.start_daemon().await;
        desk.set_secret("work").await;
        desk.log_in("work").await;
        (desk, keyring)
    }

    /// Without a daemon or a configuration.
    pub(crate) async fn bare(settings: Settings) -> Self {
        let bus = Bus::start().await;
        let connection = bus.connect().await;
        let builder = BrokerProxy::builder(&connection).cache_properties(CacheProperties::No);
        let broker = builder.build().await.unwrap();
        for folder in ["home", "config/bearerd", "state", "run"] {
            std::fs::create_dir_all(bus.folder.path().join(folder)).unwrap();
        }
        let provider = Provider::start(settings).await.unwrap();
        Self { bus, provider, connection, broker, environment: Vec::new(), daemon: None }
    }

    /// An account at our provider, as a table of the configuration.
    pub(crate) fn account(&self, name: &str, more: &str) -> String {
        format!(
            "[accounts.{name}]\nclient_id = \"sandbox\"\nclient_auth = \"post\"\nscopes = [\"profile\", \"locks\"]\n\
             authorization_endpoint = \"{}\"\ntoken_endpoint = \"{}\"\nprofile_url = \"{}\"\n{more}\n",
            self.provider.authorization_endpoint(),
            self.provider.token_endpoint(),
            self.provider.profile_url()
        )
    }

    /// The same by the issuer alone, with ID tokens.
    pub(crate) fn discovered_account(&self, name: &str, more: &str) -> String {
        format!(
            "[accounts.{name}]\nissuer = \"{}\"\nclient_id = \"sandbox\"\nscopes = [\"openid\", \"profile\"]\n{more}\n",
            self.provider.issuer()
        )
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.path("config/bearerd/config.toml")
    }

    pub(crate) fn write_config(&self, text: &str) {
        std::fs::write(self.config_file(), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.bus.folder.path().join(name)
    }

    // --- the daemon

    /// A program with the environment of this session and none of ours.
    pub(crate) fn program(&self, path: &str) -> Command {
        let mut command = Command::new(path);
        command.env_clear().kill_on_drop(true);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LANG", "C.UTF-8");
        command.env("DBUS_SESSION_BUS_ADDRESS", &self.bus.address).env("HOME", self.path("home"));
        // This machine's own is nothing to a test.
        command.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", self.path("system-bus").display()));
        command.env("XDG_CONFIG_HOME", self.path("config")).env("XDG_STATE_HOME", self.path("state"));
        command.env("XDG_RUNTIME_DIR", self.path("run")).env("BEARERD_LOG", "trace");
        command.envs(self.environment.iter().cloned());
        command
    }

    /// The daemon, not started yet, with its output in the log.
    pub(crate) fn daemon(&self) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_bearerd"));
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    /// Starts the daemon and waits for its READY=1; returns what it told the service manager until then.
    pub(crate) async fn start_daemon(&mut self) -> String {
        let socket = self.path("notify");
        let _ = std::fs::remove_file(&socket);
        let manager = UnixDatagram::bind(&socket).unwrap();
        let mut command = self.daemon();
        self.daemon = Some(command.env("NOTIFY_SOCKET", &socket).spawn().unwrap());
        let mut told = String::new();
        let ready = async {
            let mut message = [0; 4096];
            while !told.lines().any(|line| line == "READY=1") {
                let length = manager.recv(&mut message).await.unwrap();
                told.push_str(std::str::from_utf8(&message[..length]).unwrap());
                told.push('\n');
            }
        };
        let ready = timeout(DEADLINE, ready).await;
        assert!(ready.is_ok(), "the daemon is not ready:\n{}", self.log());
        told
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        let id = self.daemon.as_ref().and_then(Child::id).unwrap();
        rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) async fn kill_daemon(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.daemon_end().await;
    }

    pub(crate) async fn daemon_end(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().unwrap();
        timeout(DEADLINE, daemon.wait()).await.unwrap().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    // --- the command line

    pub(crate) async fn ctl(&self, arguments: &[&str], stdin: &str) -> Output {
        let mut command = self.program(env!("CARGO_BIN_EXE_bearerctl"));
        command.args(arguments);
        self.run(command, stdin).await
    }

    pub(crate) async fn run(&self, mut command: Command, stdin: &str) -> Output {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // It may end without reading.
        let _ = input.write_all(stdin.as_bytes()).await;
        drop(input);
        timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap()
    }

    // --- the bus

    pub(crate) async fn token(&self, account: &str) -> Result<Token, Error> {
        self.broker.get_token_with_options(account, HashMap::new()).await
    }

    pub(crate) async fn forced_token(&self, account: &str) -> Result<Token, Error> {
        let options = HashMap::from([("force_refresh", Value::from(true))]);
        self.broker.get_token_with_options(account, options).await
    }

    /// The access token alone.
    pub(crate) async fn access_token(&self, account: &str) -> String {
        self.token(account).await.unwrap().0
    }

    pub(crate) async fn set_secret(&self, account: &str) {
        let secret = Settings::default().client_secret.unwrap();
        self.broker.set_client_secret(account, file_with(&secret).as_fd().into()).await.unwrap();
    }

    pub(crate) async fn start_login(&self, account: &str) -> (LoginProxy<'static>, String) {
        let options = HashMap::from([("open_browser", Value::from(false))]);
        let (path, url) = self.broker.login_with_options(account, options).await.unwrap();
        (self.login(path).await, url)
    }

    pub(crate) async fn login(&self, path: OwnedObjectPath) -> LoginProxy<'static> {
        let builder = LoginProxy::builder(&self.connection).path(path).unwrap();
        builder.cache_properties(CacheProperties::No).build().await.unwrap()
    }

    /// Some other program's signals that look like the daemon's and the bus's, to each connection alone: nobody's match
    /// rule is asked then. The bus has passed them on when this ends.
    pub(crate) async fn pretend_change(&self, account: &str, state: &str) {
        let stranger = self.bus.connect().await;
        let us = stranger.unique_name().unwrap();
        let bus = zbus::fdo::DBusProxy::new(&stranger).await.unwrap();
        let (path, properties) = (account_path(account), "org.freedesktop.DBus.Properties");
        let started = (NAME, "", us.as_str());
        let changed = (ACCOUNT, HashMap::from([("State", Value::from(state))]), Vec::<&str>::new());
        for name in bus.list_names().await.unwrap().iter().filter(|name| name.starts_with(':')) {
            let (at, driver) = ("/org/freedesktop/DBus", "org.freedesktop.DBus");
            stranger.emit_signal(Some(name), at, driver, "NameOwnerChanged", &started).await.unwrap();
            stranger
                .emit_signal(Some(name), path.as_str(), properties, "PropertiesChanged", &changed)
                .await
                .unwrap();
        }
        bus.get_id().await.unwrap();
    }

    /// A whole login; returns the page that it ended on.
    pub(crate) async fn log_in(&self, account: &str) -> Page {
        let (login, url) = self.start_login(account).await;
        let page = Browser::new().approve(&url).await;
        assert_eq!(login.wait(20_000).await.unwrap(), "succeeded", "{}", self.log());
        page
    }

    /// One property of one of our objects.
    pub(crate) async fn property(&self, path: &str, interface: &str, name: &str) -> OwnedValue {
        let builder = zbus::fdo::PropertiesProxy::builder(&self.connection);
        let proxy = builder.destination(NAME).unwrap().path(path).unwrap().build().await.unwrap();
        proxy.get(interface.try_into().unwrap(), name).await.unwrap()
    }

    pub(crate) async fn account_text(&self, account: &str, name: &str) -> String {
        String::try_from(self.property(&account_path(account), ACCOUNT, name).await).unwrap()
    }

    pub(crate) async fn account_number(&self, account: &str, name: &str) -> u64 {
        u64::try_from(self.property(&account_path(account), ACCOUNT, name).await).unwrap()
    }

    pub(crate) async fn state(&self, account: &str) -> String {
        self.account_text(account, "State").await
    }

    /// Waits for one of the account's states, by its signals.
    pub(crate) async fn until_state(&self, account: &str, wanted: &str) {
        let builder = zbus::fdo::PropertiesProxy::builder(&self.connection);
        let proxy = builder.destination(NAME).unwrap().path(account_path(account)).unwrap();
        let mut changes = proxy.build().await.unwrap().receive_properties_changed().await.unwrap();
        let wait = async {
            while self.state(account).await != wanted {
                changes.next().await.unwrap();
            }
        };
        let reached = timeout(DEADLINE, wait).await;
        assert!(reached.is_ok(), "{account} is {}, not {wanted}:\n{}", self.state(account).await, self.log());
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let log = self.log();
        for forbidden in ["canary-", "panicked at"] {
            let found = log.lines().find(|line| line.contains(forbidden));
            assert_eq!(found, None, "the daemon's log holds {forbidden}");
        }
    }
}

/// The path of an account whose name needs no encoding.
pub(crate) fn account_path(name: &str) -> String {
    format!("{ROOT_PATH}/account/{name}")
}

/// An open file with this text, at its start.
pub(crate) fn file_with(text: &str) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

/// The word of one of our errors: the last part of its name on the bus.
pub(crate) fn word(error: &Error) -> String {
    use zbus::DBusError as _;
    error.name().as_str().rsplit('.').next().unwrap_or_default().to_owned()
}

/// Whether a condition comes true in time; for what announces itself by nothing but being so.
pub(crate) async fn eventually(mut condition: impl AsyncFnMut() -> bool) -> bool {
    let poll = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(DEADLINE, poll).await.is_ok()
}

/// Whether anything listens there.
pub(crate) async fn listening(address: &str) -> bool {
    tokio::net::TcpStream::connect(address).await.is_ok()
}
