//! Suspend, as logind announces it on the system bus. Without logind the clocks tell, afterwards.

use std::sync::Arc;

use futures_util::StreamExt as _;
use tokio::sync::watch;
use zbus::Connection;
use zbus::zvariant::OwnedFd;

use crate::accounts::Accounts;
use crate::session::Interruption;

/// How many sessions have something on its way that a suspend would cut off.
#[derive(Clone)]
pub struct Busy(watch::Sender<usize>);

/// One session that has.
pub struct BusyGuard(watch::Sender<usize>);

impl Default for Busy {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Busy {
    pub(crate) fn guard(&self) -> BusyGuard {
        self.0.send_modify(|count| *count += 1);
        BusyGuard(self.0.clone())
    }

    /// How many there are.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<usize> {
        self.0.subscribe()
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1",
    gen_blocking = false
)]
trait Logind {
    /// Delays a suspend until the descriptor is closed, a few seconds at most.
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;

    #[zbus(signal)]
    fn prepare_for_sleep(&self, start: bool) -> zbus::Result<()>;
}

/// Tells the sessions of suspends, and delays one while a refresh is on its way (D9). Ends with the system bus.
pub(crate) async fn watch(system: impl Future<Output = zbus::Result<Connection>>, accounts: Arc<Accounts>) {
    let watched = async {
        let connection = system.await?;
        let logind = LogindProxy::new(&connection).await?;
        let signals = logind.receive_prepare_for_sleep().await?;
        let busy = accounts.busy().watch();
        tokio::select! {
            () = follow(signals, &accounts) => {}
            () = delay(&logind, busy) => {}
        }
        Ok::<(), zbus::Error>(())
    };
    if let Err(error) = watched.await {
        tracing::info!(%error, "suspends are not announced here; they are noticed afterwards");
    }
}

async fn follow(mut signals: PrepareForSleepStream, accounts: &Accounts) {
    while let Some(signal) = signals.next().await {
        let Ok(args) = signal.args() else { continue };
        let interruption = if args.start { Interruption::Suspending } else { Interruption::Awake };
        tracing::info!(?interruption, "logind");
        accounts.interrupt(interruption).await;
    }
}

/// Holds the delay just as long as it is needed: what is always held, nobody would see the reason of.
async fn delay(logind: &LogindProxy<'_>, mut busy: watch::Receiver<usize>) {
    loop {
        if busy.wait_for(|count| *count > 0).await.is_err() {
            return;
        }
        let held = logind.inhibit("sleep", "bearerd", "A token is being renewed", "delay").await;
        match &held {
            Ok(_) => tracing::debug!("delaying a suspend"),
            Err(error) => tracing::debug!(%error, "a suspend cannot be delayed"),
        }
        if busy.wait_for(|count| *count == 0).await.is_err() {
            return;
        }
    }
}
