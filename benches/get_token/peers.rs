//! What else hands out tokens or secrets on a desktop, as Debian packages it, each with one to give.
//!
//! oidc-agent is logged in at the embedded provider. GNOME Online Accounts has no login without its settings
//! window, and knows its own providers alone; it gets an account and a stored token that is long from expiring,
//! which it hands out without asking anybody. `secret-tool` reads a plain secret of that length.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bearerd::clock::Clock;
use bearerd::sandbox::consent;
use bearerd::sandbox::provider::Provider;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use zbus::Connection;
use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};

use crate::TOKEN_LENGTH;
use crate::stage::{ACCOUNT, provider};
use crate::support::{Bus, Error, Service, await_name};

pub(crate) const OIDC_AGENT: &str = "oidc-agent, its socket";
pub(crate) const KEYRING: &str = "gnome-keyring, search and get";
pub(crate) const GOA: &str = "GNOME Online Accounts, bus";

pub(crate) const SECRETS: &str = "org.freedesktop.secrets";
pub(crate) const GOA_NAME: &str = "org.gnome.OnlineAccounts";
pub(crate) const GOA_ACCOUNT: &str = "/org/gnome/OnlineAccounts/Accounts/account_1";
pub(crate) const GOA_OAUTH2: &str = "org.gnome.OnlineAccounts.OAuth2Based";
pub(crate) const GOA_DAEMON: &str = "/usr/libexec/goa-daemon";

/// The stored secret's attribute and its value.
pub(crate) const ATTRIBUTE: (&str, &str) = ("program", ACCOUNT);
/// Of what encrypts oidc-agent's and the keyring's files.
const PASSWORD: &str = "bench";
/// What starting takes at most.
const PATIENCE: Duration = Duration::from_secs(20);

/// Those that are installed.
#[derive(Default)]
pub(crate) struct Peers {
    pub(crate) oidc_agent: Option<OidcAgent>,
    pub(crate) keyring: Option<Service>,
    pub(crate) goa: Option<Service>,
    /// oidc-agent's, which ends with this.
    provider: Option<Provider>,
}

impl Peers {
    pub(crate) async fn start(bus: &Bus, folder: &Path) -> Result<Self, Error> {
        let mut peers = Self::default();
        if installed("oidc-agent") {
            // It refreshes at each start, and always has a client secret.
            let provider = provider(Some(PASSWORD)).await?;
            // It does not keep the one that its start was given.
            provider.configure(|settings| settings.rotation = false);
            let agent = OidcAgent::start(bus).await?;
            // Now and then its login does not come to its end.
            match agent.log_in(bus, &provider).await {
                Ok(()) => (peers.oidc_agent, peers.provider) = (Some(agent), Some(provider)),
                Err(error) => eprintln!("get_token: oidc-agent is left out: {error}"),
            }
        }
        if installed("gnome-keyring-daemon") && installed("secret-tool") {
            peers.keyring = Some(start_keyring(bus).await?);
            let (key, value) = ATTRIBUTE;
            store(bus, &[key, value], &"x".repeat(TOKEN_LENGTH))?;
            if installed(GOA_DAEMON) {
                prepare_goa(bus, folder)?;
                peers.goa = Some(start_goa(bus).await?);
            }
        }
        Ok(peers)
    }
}

/// Whether it is on the path, or there.
pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| {
        folder.join(program).metadata().is_ok_and(|found| found.permissions().mode() & 0o111 != 0)
    })
}

/// A keyring of its own, unlocked.
pub(crate) async fn start_keyring(bus: &Bus) -> Result<Service, Error> {
    let mut keyring = Command::new("gnome-keyring-daemon");
    keyring.args(["--unlock", "--foreground", "--components=secrets"]);
    // It tells its variables, and that it may not lock its memory.
    keyring.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut keyring = bus.start_service(&mut keyring)?;
    keyring.0.stdin.take().ok_or("the keyring takes no password")?.write_all(PASSWORD.as_bytes())?;
    await_name(&bus.connect().await?, SECRETS).await?;
    Ok(keyring)
}

fn store(bus: &Bus, attributes: &[&str], secret: &str) -> Result<(), Error> {
    let mut tool = Command::new("secret-tool");
    tool.args(["store", "--label=bench"]).args(attributes).stdin(Stdio::piped());
    let mut tool = bus.adopt(&mut tool).spawn()?;
    tool.stdin.take().ok_or("secret-tool takes no secret")?.write_all(secret.as_bytes())?;
    if tool.wait()?.success() { Ok(()) } else { Err("secret-tool could not store".into()) }
}

/// As its settings leave an account behind.
fn prepare_goa(bus: &Bus, folder: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(folder.join("goa-1.0"))?;
    std::fs::write(
        folder.join("goa-1.0/accounts.conf"),
        "[Account account_1]\nProvider=google\nIdentity=robin@example.org\n\
         PresentationIdentity=robin@example.org\n",
    )?;
    let expires = Clock::system()?.now().wall.as_secs() + 36_000;
    let token = "x".repeat(TOKEN_LENGTH);
    let credentials = format!(
        "{{'access_token': <'{token}'>, 'access_token_expires_at': <int64 {expires}000000>, \
         'refresh_token': <'none'>}}"
    );
    let attributes = ["xdg:schema", "org.gnome.OnlineAccounts", "goa-identity", "google:gen11:account_1"];
    store(bus, &attributes, &credentials)
}

pub(crate) async fn start_goa(bus: &Bus) -> Result<Service, Error> {
    // It complains about what a desktop would have.
    let goa = bus.start_service(Command::new(GOA_DAEMON).stdout(Stdio::null()).stderr(Stdio::null()))?;
    await_name(&bus.connect().await?, GOA_NAME).await?;
    Ok(goa)
}

/// A session with the Secret Service, without encryption: what a local caller needs least.
pub(crate) async fn open_session(connection: &Connection) -> Result<OwnedObjectPath, Error> {
    let arguments = ("plain", Value::from(""));
    let root = "/org/freedesktop/secrets";
    let service = Some("org.freedesktop.Secret.Service");
    let reply = connection.call_method(Some(SECRETS), root, service, "OpenSession", &arguments).await?;
    let (_, session): (OwnedValue, OwnedObjectPath) = reply.body().deserialize()?;
    Ok(session)
}

/// Searches for the stored secret and gets it; its length.
pub(crate) async fn get_secret(connection: &Connection, session: &OwnedObjectPath) -> Result<usize, Error> {
    let attributes = HashMap::from([ATTRIBUTE]);
    let root = "/org/freedesktop/secrets";
    let service = Some("org.freedesktop.Secret.Service");
    let reply = connection.call_method(Some(SECRETS), root, service, "SearchItems", &attributes).await?;
    let (unlocked, _): (Vec<OwnedObjectPath>, Vec<OwnedObjectPath>) = reply.body().deserialize()?;
    let item = unlocked.first().ok_or("the keyring has lost the secret")?;
    let interface = Some("org.freedesktop.Secret.Item");
    let reply = connection.call_method(Some(SECRETS), item, interface, "GetSecret", session).await?;
    Ok(reply.body().len())
}

/// It goes into the background by itself.
pub(crate) struct OidcAgent {
    pub(crate) pid: rustix::process::Pid,
    pub(crate) socket: PathBuf,
}

impl OidcAgent {
    pub(crate) async fn start(bus: &Bus) -> Result<Self, Error> {
        let output = bus.adopt(Command::new("oidc-agent").arg("--quiet").stderr(Stdio::null())).output()?;
        let said = String::from_utf8(output.stdout)?;
        let value = |name: &str| Some(said.split_once(name)?.1.split(';').next()?.to_owned());
        let pid = value("OIDCD_PID=").and_then(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?));
        let socket = value("OIDC_SOCK=").ok_or("oidc-agent does not say where it is")?.into();
        let agent = Self { pid: pid.ok_or("oidc-agent does not say who it is")?, socket };
        // It says where it is before it is there.
        let (clock, mut tries) = (Clock::system()?, 0);
        while std::os::unix::net::UnixStream::connect(&agent.socket).is_err() {
            tries += 1;
            if tries > 5000 {
                return Err("oidc-agent does not listen".into());
            }
            clock.sleep(Duration::from_millis(1)).await;
        }
        Ok(agent)
    }

    /// One of its commands.
    pub(crate) fn command(&self, bus: &Bus, program: &str) -> Command {
        let mut command = Command::new(program);
        bus.adopt(&mut command).env("OIDC_SOCK", &self.socket).env("OIDC_ENCRYPTION_PW", PASSWORD);
        command.stdin(Stdio::null());
        command
    }

    /// Loads the account that an earlier one was logged in to.
    pub(crate) async fn load(&self, bus: &Bus) -> Result<(), Error> {
        let mut add = self.command(bus, "oidc-add");
        add.args([ACCOUNT, "--pw-env"]);
        // It asks the provider, which is in this process.
        let output = tokio::process::Command::from(add).kill_on_drop(true).output();
        let output = tokio::time::timeout(PATIENCE, output).await??;
        if output.status.success() {
            Ok(())
        } else {
            let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
            Err(format!("oidc-add: {out}{err}").into())
        }
    }

    async fn log_in(&self, bus: &Bus, provider: &Provider) -> Result<(), Error> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut generate = self.command(bus, "oidc-gen");
        generate.args([ACCOUNT, "--manual", "--flow=code", "--client-id=sandbox"]);
        generate.arg(format!("--client-secret={PASSWORD}"));
        generate.args(["--scope=openid profile offline_access", "--prompt=none", "--pw-env"]);
        generate.args(["--no-url-call", "--no-scheme", "--confirm-default"]);
        generate.arg(format!("--iss={}", provider.issuer()));
        generate.arg(format!("--redirect-uri=http://localhost:{port}"));
        generate.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut generate = tokio::process::Command::from(generate).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(generate.stderr.take().ok_or("oidc-gen says nothing")?).lines();
        let follow = async {
            while let Some(line) = lines.next_line().await? {
                if line.starts_with("http://") {
                    consent::approve(&line).await?;
                }
            }
            Ok::<_, Error>(generate.wait().await?.success())
        };
        match tokio::time::timeout(PATIENCE, follow).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Err(error)) => Err(format!("oidc-gen: {error}").into()),
            _ => Err("oidc-gen did not log in".into()),
        }
    }
}

impl Drop for OidcAgent {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.pid, rustix::process::Signal::TERM);
    }
}
