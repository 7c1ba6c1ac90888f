//! What the service manager is told: ready, status, stopping, and that we are alive.

use sd_notify::NotifyState;

/// Tells the service manager; without one nothing happens.
pub fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot tell the service manager");
    }
}
