//! A private bus and processes on it.

use std::io::{BufRead as _, BufReader};
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

/// A private session bus.
pub(crate) struct Bus {
    child: Child,
    address: String,
}

impl Bus {
    pub(crate) fn start(folder: &std::path::Path) -> Result<Self, Error> {
        let mut command = Command::new("dbus-daemon");
        command.args(["--session", "--nofork", "--nopidfile", "--print-address=1"]);
        command.arg(format!("--address=unix:dir={}", folder.display()));
        let mut child = command.stdout(Stdio::piped()).spawn().map_err(|e| format!("dbus-daemon: {e}"))?;
        let mut address = String::new();
        let stdout = child.stdout.take().ok_or("dbus-daemon has no stdout")?;
        BufReader::new(stdout).read_line(&mut address)?;
        Ok(Self { child, address: address.trim().to_owned() })
    }

    pub(crate) async fn connect(&self) -> zbus::Result<Connection> {
        zbus::connection::Builder::address(self.address.as_str())?.build().await
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

impl Service {
    pub(crate) fn start(command: &mut Command, bus: &Bus) -> std::io::Result<Self> {
        command.env("DBUS_SESSION_BUS_ADDRESS", &bus.address).spawn().map(Self)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
