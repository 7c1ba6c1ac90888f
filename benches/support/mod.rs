//! A private bus and processes on it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use zbus::Connection;

pub(crate) type Error = Box<dyn std::error::Error>;

/// Waits until somebody owns the name.
pub(crate) async fn await_name(caller: &Connection, name: &str) -> Result<(), Error> {
    use futures_util::StreamExt as _;
    let bus = zbus::fdo::DBusProxy::new(caller).await?;
    let mut changes = bus.receive_name_owner_changed_with_args(&[(0, name)]).await?;
    let owned = bus.name_has_owner(name.try_into()?).await?;
    if !owned {
        tokio::time::timeout(Duration::from_secs(20), changes.next()).await?;
    }
    Ok(())
}

/// A private session bus, and a folder in the place of the user's.
pub(crate) struct Bus {
    child: Child,
    address: String,
    folder: PathBuf,
}

impl Bus {
    pub(crate) fn start(folder: &Path) -> Result<Self, Error> {
        let mut command = Command::new("dbus-daemon");
        command.args(["--session", "--nofork", "--nopidfile", "--print-address=1"]);
        command.arg(format!("--address=unix:dir={}", folder.display()));
        // What it starts inherits that.
        stay_in(&mut command, folder);
        // It says that it may not have more descriptors.
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("dbus-daemon: {e}"))?;
        let mut address = String::new();
        let stdout = child.stdout.take().ok_or("dbus-daemon has no stdout")?;
        BufReader::new(stdout).read_line(&mut address)?;
        Ok(Self { child, address: address.trim().to_owned(), folder: folder.to_owned() })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn connect(&self) -> zbus::Result<Connection> {
        zbus::connection::Builder::address(self.address())?.build().await
    }

    /// A process in this session.
    pub(crate) fn start_service(&self, command: &mut Command) -> std::io::Result<Service> {
        self.adopt(command).spawn().map(Service)
    }

    /// Gives a command this session's environment.
    pub(crate) fn adopt<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        stay_in(command, &self.folder);
        command.env("DBUS_SESSION_BUS_ADDRESS", &self.address)
    }
}

/// Nothing of the user's is read or written.
fn stay_in(command: &mut Command, folder: &Path) {
    for variable in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"] {
        command.env(variable, folder);
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that ends with us.
pub(crate) struct Service(pub(crate) Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
