//! How many calls each connection has waiting, and when that is too many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use zbus::message::Header;

use super::error::Error;

/// The most calls in flight per connection.
const LIMIT: usize = 1024;

#[derive(Clone, Default)]
pub(super) struct InFlight(Arc<Mutex<HashMap<String, usize>>>);

impl InFlight {
    /// Counts a call until the guard goes.
    pub(super) fn enter(&self, header: &Header<'_>) -> Result<Guard, Error> {
        let caller = header.sender().map(|sender| sender.as_str().to_owned()).unwrap_or_default();
        let mut callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = callers.entry(caller.clone()).or_default();
        if *calls >= LIMIT {
            return Err(Error::rate_limited(format!(
                "more than {LIMIT} calls of this connection wait; wait for answers first"
            )));
        }
        *calls += 1;
        drop(callers);
        Ok(Guard { in_flight: self.clone(), caller })
    }
}

pub(super) struct Guard {
    in_flight: InFlight,
    caller: String,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut callers = self.in_flight.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(calls) = callers.get_mut(&self.caller) {
            *calls -= 1;
            if *calls == 0 {
                callers.remove(&self.caller);
            }
        }
    }
}
