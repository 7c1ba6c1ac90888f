//! Who is at the other end: the bus is asked once per connection.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::OnceCell;
use zbus::Connection;
use zbus::fdo::{ConnectionCredentials, DBusProxy};
use zbus::message::Header;
use zbus::names::UniqueName;
use zbus::proxy::CacheProperties;

use super::error::Error;
use crate::access::caller::Caller;
use crate::access::process::{Peer, identify};
use crate::clock::Clock;

/// The most connections that are remembered.
const CAPACITY: usize = 2048;

type Known = Arc<OnceCell<Arc<Caller>>>;

/// The callers of one bus, by their unique names.
///
/// A bus never gives a unique name twice, so what is remembered stays right, and to forget is a matter of
/// room alone: the least recently seen half goes. Watching for connections that end would wake us at each
/// end of every program of the session.
pub(super) struct Callers {
    bus: DBusProxy<'static>,
    clock: Clock,
    known: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    by_name: HashMap<String, (u64, Known)>,
    /// Counts looks, to tell what was seen last.
    looks: u64,
}

impl Callers {
    pub(super) async fn new(connection: &Connection, clock: Clock) -> zbus::Result<Self> {
        let bus = DBusProxy::builder(connection).cache_properties(CacheProperties::No).build().await?;
        Ok(Self { bus, clock, known: Mutex::default() })
    }

    /// Who sent this.
    pub(super) async fn sender(&self, header: &Header<'_>) -> Result<Arc<Caller>, Error> {
        let Some(name) = header.sender() else { return Err(unknown()) };
        self.named(name).await
    }

    /// Whose connection this is.
    pub(super) async fn named(&self, name: &UniqueName<'_>) -> Result<Arc<Caller>, Error> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).of(name.as_str());
        let caller = known.get_or_try_init(|| self.look(name)).await?;
        Ok(Arc::clone(caller))
    }

    async fn look(&self, name: &UniqueName<'_>) -> Result<Arc<Caller>, Error> {
        let credentials = self.credentials(name).await?;
        let pidfd = match credentials.process_fd() {
            Some(fd) => Some(fd.as_fd().try_clone_to_owned().map_err(|_| unknown())?),
            None => self.open(name, credentials.process_id()).await?,
        };
        identified(&credentials, pidfd, &self.clock).await
    }

    async fn credentials(&self, name: &UniqueName<'_>) -> Result<ConnectionCredentials, Error> {
        self.bus.get_connection_credentials(name.clone().into()).await.map_err(|_| unknown())
    }

    /// For a bus that tells the number only. Whoever still is on the bus after its number was opened was
    /// alive then, and so it was opened itself.
    async fn open(&self, name: &UniqueName<'_>, pid: Option<u32>) -> Result<Option<OwnedFd>, Error> {
        let raw = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).ok_or_else(unknown)?;
        let opened = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(pidfd) => Some(pidfd),
            Err(rustix::io::Errno::NOSYS) => None,
            Err(_) => return Err(unknown()),
        };
        if self.credentials(name).await?.process_id() == pid { Ok(opened) } else { Err(unknown()) }
    }
}

/// What the credentials say.
pub(super) async fn identified(
    credentials: &ConnectionCredentials,
    pidfd: Option<OwnedFd>,
    clock: &Clock,
) -> Result<Arc<Caller>, Error> {
    let uid = credentials.unix_user_id().ok_or_else(unknown)?;
    let label = credentials
        .linux_security_label()
        .map(|label| String::from_utf8_lossy(label).trim_end_matches('\0').to_owned());
    let peer =
        Peer { uid, pid: credentials.process_id().unwrap_or(0), pidfd, label: label.unwrap_or_default() };
    let caller = identify(peer, clock).await;
    tracing::debug!(%caller, pid = caller.pid, unit = %caller.unit, "a caller is known");
    Ok(Arc::new(caller))
}

fn unknown() -> Error {
    Error::access_denied("the bus cannot tell whose process you are; connect again")
}

impl Remembered {
    fn of(&mut self, name: &str) -> Known {
        self.looks += 1;
        if let Some((seen, known)) = self.by_name.get_mut(name) {
            *seen = self.looks;
            return Arc::clone(known);
        }
        if self.by_name.len() >= CAPACITY {
            let mut seen: Vec<u64> = self.by_name.values().map(|(seen, _)| *seen).collect();
            let (_, median, _) = seen.select_nth_unstable(CAPACITY / 2);
            let median = *median;
            self.by_name.retain(|_, (seen, _)| *seen >= median);
        }
        let known = Known::default();
        self.by_name.insert(name.to_owned(), (self.looks, Arc::clone(&known)));
        known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_seen_last_are_remembered_and_no_more_than_there_is_room_for() {
        let mut remembered = Remembered::default();
        let hot = remembered.of(":1.0");
        for n in 1..10 * CAPACITY {
            remembered.of(&format!(":1.{n}"));
            assert!(Arc::ptr_eq(&hot, &remembered.of(":1.0")));
        }
        assert!(remembered.by_name.len() <= CAPACITY);
    }
}
