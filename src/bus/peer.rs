//! Who calls, and how many of their calls wait. Whatever depends on the caller starts from here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use zbus::message::Header;

use super::error::Error;
use crate::access::caller::Caller;

/// The most calls in flight per connection.
const LIMIT: usize = 1024;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Peer {
    /// A connection of the session bus, by its unique name, which the bus vouches for.
    Bus(String),
    /// A connection of the direct socket, by its number. Its user is ours, always.
    Direct(u64),
}

/// Through which door a connection's calls come in.
#[derive(Clone)]
pub(super) enum Door {
    Bus,
    Direct(u64, Arc<Caller>),
}

impl Door {
    /// A sender that a direct peer claims to be means nothing, so it is not looked at.
    pub(super) fn peer(&self, header: &Header<'_>) -> Peer {
        match self {
            Self::Bus => Peer::Bus(header.sender().map(|name| name.as_str().to_owned()).unwrap_or_default()),
            Self::Direct(number, _) => Peer::Direct(*number),
        }
    }
}

/// The calls that wait, of all connections.
#[derive(Clone, Default)]
pub(super) struct InFlight(Arc<Mutex<HashMap<Peer, usize>>>);

/// One call; it counts until it goes.
pub(super) struct Call {
    pub(super) peer: Peer,
    in_flight: InFlight,
}

impl InFlight {
    /// Counts a call, if its connection has not too many.
    pub(super) fn enter(&self, peer: Peer) -> Result<Call, Error> {
        let mut callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = callers.entry(peer.clone()).or_default();
        if *calls >= LIMIT {
            return Err(Error::rate_limited(format!(
                "more than {LIMIT} calls of this connection wait; wait for answers first"
            )));
        }
        *calls += 1;
        drop(callers);
        Ok(Call { peer, in_flight: self.clone() })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut callers = self.in_flight.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(calls) = callers.get_mut(&self.peer) {
            *calls -= 1;
            if *calls == 0 {
                callers.remove(&self.peer);
            }
        }
    }
}
