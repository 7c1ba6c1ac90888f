//! The interface for who asks and who may, `org.bearerd.Broker1.Access`, at the root object.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use zbus::interface;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::Value;

use super::Bus;
use super::error::Error;
use super::peer::Door;
use crate::access::log::Entry;

/// The longest that one `ReadLog` lasts; callers give up after 25 s.
const MAX_WAIT: Duration = Duration::from_secs(20);
/// How the ids of Flatpaks begin.
const FLATPAK: &str = "flatpak:";

pub(super) struct Access {
    bus: Arc<Bus>,
}

impl Access {
    pub(super) fn new(bus: Arc<Bus>) -> Self {
        Self { bus }
    }

    /// For unsandboxed programs of the user alone.
    async fn admit(&self, header: &Header<'_>) -> Result<&crate::access::Access, Error> {
        self.bus.gate.control(&Door::Bus, header).await?;
        Ok(&self.bus.gate.access)
    }
}

type Record = HashMap<&'static str, Value<'static>>;

fn record(entry: Entry) -> Record {
    let caller = &entry.caller;
    HashMap::from([
        ("number", Value::from(entry.number)),
        ("event", Value::from(entry.event.as_str())),
        ("account", Value::from(entry.account.to_string())),
        ("outcome", Value::from(entry.outcome)),
        ("caller", Value::from(caller.id.to_string())),
        ("pid", Value::from(caller.pid)),
        ("unit", Value::from(caller.unit.to_string())),
        ("chain", Value::from(caller.chain.clone())),
        ("first", Value::from(entry.first)),
        ("last", Value::from(entry.last)),
        ("count", Value::from(entry.count)),
        ("expires", Value::from(entry.expires)),
    ])
}

/// Who asked for what, and what came of it. Not for sandboxed programs.
#[interface(name = "org.bearerd.Broker1.Access", introspection_docs = true)]
impl Access {
    /// What has changed in the log after the change of this number (0: all that is kept), oldest first, and
    /// the number for the next call. Equal requests of five minutes are one entry. With nothing new it waits
    /// for at most timeout_ms milliseconds and 20 s. Entries: number t, event s, account s, outcome s
    /// ("granted", an error's word, or how a login ended), caller s, pid u, unit s, chain s (its name and its
    /// parents'), first t, last t, count t, expires t (times in Unix seconds, 0: none).
    #[zbus(out_args("next", "entries"))]
    async fn read_log(
        &self,
        after: u64,
        timeout_ms: u32,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<(u64, Vec<Record>), Error> {
        let _call = self.bus.in_flight.enter(Door::Bus.peer(&header))?;
        let access = self.admit(&header).await?;
        let timeout = Duration::from_millis(timeout_ms.into()).min(MAX_WAIT);
        tokio::select! {
            biased;
            () = access.logged_after(after) => {}
            () = self.bus.clock().sleep(timeout) => {}
        }
        let (next, entries) = access.read_log(after);
        Ok((next, entries.into_iter().map(record).collect()))
    }

    /// By account: when a token was last handed out, in Unix seconds, and to whom.
    #[zbus(out_args("accounts"))]
    async fn last_used(
        &self,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<HashMap<String, (u64, String)>, Error> {
        let used = self.admit(&header).await?.last_used();
        Ok(used
            .into_iter()
            .map(|(name, used)| (name.to_string(), (used.at, used.caller.id.to_string())))
            .collect())
    }

    /// Hands no token out to anybody, also after a restart, until Resume. Sessions are kept alive.
    async fn pause(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<(), Error> {
        self.admit(&header).await?.set_paused(true).await;
        Ok(self.paused_changed(&emitter).await?)
    }

    /// Hands tokens out again, unless the screen is locked and pause_on_lock is configured.
    async fn resume(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> Result<(), Error> {
        self.admit(&header).await?.set_paused(false).await;
        Ok(self.paused_changed(&emitter).await?)
    }

    /// Lists what the user has allowed for good: account, caller, since when in Unix seconds (0: not known,
    /// for what the desktop's permission store keeps).
    #[zbus(out_args("permissions"))]
    async fn list_permissions(
        &self,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<Vec<(String, String, u64)>, Error> {
        let permissions = self.admit(&header).await?.permissions();
        let ours = permissions.into_iter().map(|known| (known.account, known.caller, known.since));
        let kept = self.bus.gate.store.allowed().await;
        let kept = kept.into_iter().map(|(account, app)| (account, format!("{FLATPAK}{app}"), 0));
        Ok(ours.chain(kept).collect())
    }

    /// Forgets what the user has answered about this caller and account, for good or for now: they are
    /// asked again. Returns whether there was an answer.
    #[zbus(out_args("forgotten"))]
    async fn forget(
        &self,
        account: &str,
        caller: &str,
        #[zbus(header)] header: Header<'_>,
    ) -> Result<bool, Error> {
        let ours = self.admit(&header).await?.forget(account, caller).await;
        let kept = match caller.strip_prefix(FLATPAK) {
            Some(app) => self.bus.gate.store.forget(account, app).await,
            None => false,
        };
        Ok(ours || kept)
    }

    /// Whether nothing is handed out.
    #[zbus(property)]
    fn paused(&self) -> bool {
        self.bus.gate.access.is_paused()
    }
}
