//! The direct socket: the root interface without a bus between, for callers that ask often.
//!
//! No account or login objects, no object manager, no signals. Whoever wants those, and whoever starts the
//! daemon, uses the bus. Each connection is a task of its own, so one that says nothing holds nobody up.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use zbus::connection::Builder;

use super::broker::Broker;
use super::peer::Door;
use super::{Bus, ROOT_PATH, handshake};
use crate::access::process::{Peer, identify};

/// The socket's name in its folder, `$XDG_RUNTIME_DIR/bearerd`.
pub(crate) const SOCKET: &str = "bus";
/// Half of the descriptors that a process has by default: the other half is for our own work.
const MAX_CONNECTIONS: usize = 512;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long no one is let in after the kernel refused it.
const PAUSE: Duration = Duration::from_secs(1);

/// The open socket; it goes with this.
pub(crate) struct Direct {
    path: PathBuf,
    inode: u64,
    listening: AbortHandle,
}

impl Direct {
    /// Opens the socket. Without it everybody uses the bus, so a failure is a line in the log.
    pub(crate) fn open(folder: &Path, bus: &Arc<Bus>) -> Option<Self> {
        match Self::bind(folder, bus) {
            Ok(direct) => Some(direct),
            Err(error) => {
                tracing::warn!(%error, folder = %folder.display(), "there is no direct socket; the bus serves");
                None
            }
        }
    }

    fn bind(folder: &Path, bus: &Arc<Bus>) -> io::Result<Self> {
        make_private(folder)?;
        let path = folder.join(SOCKET);
        // What lies there is of a process that has ended, for there is one daemon per user. It is replaced
        // in one step, so that no caller sees a moment without a socket.
        let new = folder.join("bus.new");
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&new)?;
        std::fs::rename(&new, &path)?;
        let inode = path.symlink_metadata()?.ino();
        let listening = tokio::spawn(listen(listener, Arc::clone(bus))).abort_handle();
        Ok(Self { path, inode, listening })
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.listening.abort();
        // Another daemon's socket stays.
        if self.path.symlink_metadata().is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Makes the folder, or makes sure that it is ours alone.
fn make_private(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = folder.symlink_metadata()?;
    let private =
        found.is_dir() && found.uid() == rustix::process::getuid().as_raw() && found.mode() & 0o777 == 0o700;
    if private { Ok(()) } else { Err(io::Error::other("its folder is open to others; run: chmod 700")) }
}

async fn listen(listener: UnixListener, bus: Arc<Bus>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    for number in 0.. {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                    // It outlives the listening: a stop lets its calls end.
                    tokio::spawn(attend(stream, number, Arc::clone(&bus), place));
                } else {
                    tracing::debug!("a connection too many was closed");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the direct socket lets no one in for a while");
                bus.clock().sleep(PAUSE).await;
            }
        }
    }
}

/// One connection, from its handshake to its end.
async fn attend(stream: UnixStream, number: u64, bus: Arc<Bus>, _place: OwnedSemaphorePermit) {
    match serve(stream, number, &bus).await {
        Ok(connection) => connection.closed().await,
        Err(error) => tracing::debug!(%error, "a connection to the direct socket came to nothing"),
    }
}

async fn serve(mut stream: UnixStream, number: u64, bus: &Arc<Bus>) -> zbus::Result<zbus::Connection> {
    let peer = peer(&stream)?;
    let guid = zbus::Guid::generate();
    let accepted = handshake::accept(&mut stream, guid.as_str());
    let accepted = bus.clock().within(HANDSHAKE_TIMEOUT, accepted).await;
    accepted.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))?;
    let caller = Arc::new(identify(peer, bus.clock()).await);
    let root = Broker::new(Arc::clone(bus), Door::Direct(number, caller));
    let builder = Builder::authenticated_socket(stream, guid)?.p2p();
    builder.serve_at(ROOT_PATH, root)?.serve_at("/org/freedesktop/DBus", Driver)?.build().await
}

/// The process that connected, of our own user. Whoever it left the connection to counts as that process.
fn peer(stream: &UnixStream) -> io::Result<Peer> {
    let caller = stream.peer_cred()?;
    if caller.uid() != rustix::process::getuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let pid = caller.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
    Ok(Peer { uid: caller.uid(), pid, pidfd: pidfd(stream, pid)?, label: String::new() })
}

/// The process itself; `None` where the kernel is too old to have such descriptors, or its number is none of ours.
///
/// An error is the end of the connection: a number whose process has ended may be another's any time.
fn pidfd(stream: &UnixStream, pid: u32) -> io::Result<Option<OwnedFd>> {
    match getsockopt(stream, sockopt::PeerPidfd) {
        Ok(pidfd) => return Ok(Some(pidfd)),
        // Linux before 6.5.
        Err(Errno::ENOPROTOOPT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(rustix::io::Errno::NOSYS) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// As much of a bus as libraries need that know no connection without one, `busctl` among them.
struct Driver;

#[zbus::interface(name = "org.freedesktop.DBus")]
impl Driver {
    #[zbus(out_args("unique_name"))]
    fn hello(&self) -> &'static str {
        ":1.1"
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::access::caller::Kind;
    use crate::clock::Clock;

    const SOCKET_OF_TEST: &str = "BEARERD_TEST_SOCKET";

    /// Connects, leaves the connection to another process, and ends; does nothing unless the test below asks.
    #[test]
    #[allow(clippy::zombie_processes, reason = "it outlives this process, and ends with the connection")]
    fn a_caller_that_ends() {
        let Some(path) = std::env::var_os(SOCKET_OF_TEST) else { return };
        let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        Command::new("cat").stdin(OwnedFd::from(stream)).stdout(Stdio::null()).spawn().unwrap();
    }

    /// R6: a number alone never stands for the process that had it.
    #[tokio::test]
    async fn a_caller_that_has_ended_is_not_looked_for_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "bus::direct::tests::a_caller_that_ends"]).env(SOCKET_OF_TEST, &path);
        assert!(child.stdout(Stdio::null()).status().unwrap().success());
        let (stream, _) = listener.accept().await.unwrap();

        // An error of the kernel's ends the connection.
        if let Ok(peer) = peer(&stream) {
            assert!(peer.pidfd.is_some());
            let caller = identify(peer, &Clock::system().unwrap()).await;
            assert!(matches!(caller.kind, Kind::Hidden(_)), "{caller}");
        }
    }
}
