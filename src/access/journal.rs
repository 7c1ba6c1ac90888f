//! Tells the journal, with fields and message ids of our own; `systemd/bearerd.catalog` explains those.
//!
//! Not through `tracing`: its journal layer has one prefix for all fields and no message ids.

use std::fmt::Write as _;
use std::os::unix::net::UnixDatagram;

use jiff::Timestamp;

use super::log::{Entry, Event, GRANTED};

const SOCKET: &str = "/run/systemd/journal/socket";

/// `sd_journal_print` and `journalctl --catalog` know messages by these.
pub(crate) const GIVEN: &str = "70716dec3c4d495ea340f16399e143b0";
pub(crate) const DENIED: &str = "e82b68a1fdc442518284dbc8ccf51dbe";
pub(crate) const FAILED: &str = "72193f3764d54671aae520d8806c7d4c";
pub(crate) const LOGIN: &str = "14dc018bcbc94bbaae4ad50f60f0500a";
pub(crate) const DONE: &str = "6c334f5ff371480196e979e32a500175";

/// The journal when the service manager listens, the log otherwise.
pub(super) struct Journal(Option<UnixDatagram>);

impl Journal {
    pub(super) fn open() -> Self {
        let open = || {
            std::env::var_os("JOURNAL_STREAM")?;
            let socket = UnixDatagram::unbound().ok()?;
            // A journal that is stuck must not hold up callers; the ring has it all.
            socket.set_nonblocking(true).ok()?;
            socket.connect(SOCKET).ok()?;
            Some(socket)
        };
        Self(open())
    }

    pub(super) fn tell(&self, entry: &Entry) {
        if let Some(socket) = &self.0 {
            let _ = socket.send(record(entry).as_bytes());
            return;
        }
        tracing::info!(
            account = %entry.account,
            caller = %entry.caller,
            pid = entry.caller.pid,
            event = entry.event.as_str(),
            outcome = entry.outcome,
            count = entry.count,
            "{}",
            message(entry)
        );
    }
}

/// In the journal's own format: a field a line. No value of ours holds a line break.
fn record(entry: &Entry) -> String {
    let caller = &entry.caller;
    let fields = [
        ("MESSAGE", message(entry)),
        ("MESSAGE_ID", message_id(entry).to_owned()),
        ("PRIORITY", if entry.outcome == "AccessDenied" { "5" } else { "6" }.to_owned()),
        ("SYSLOG_IDENTIFIER", "bearerd".to_owned()),
        ("BEARERD_EVENT", entry.event.as_str().to_owned()),
        ("BEARERD_ACCOUNT", entry.account.to_string()),
        ("BEARERD_OUTCOME", entry.outcome.to_owned()),
        ("BEARERD_CALLER", caller.id.to_string()),
        ("BEARERD_CALLER_PID", caller.pid.to_string()),
        ("BEARERD_CALLER_UNIT", caller.unit.to_string()),
        ("BEARERD_CALLER_CHAIN", caller.chain.clone()),
        ("BEARERD_COUNT", entry.count.to_string()),
        ("BEARERD_EXPIRES", entry.expires.to_string()),
    ];
    let mut record = String::new();
    for (name, value) in fields {
        record += name;
        record += "=";
        record += &value.replace('\n', " ");
        record += "\n";
    }
    record
}

fn message_id(entry: &Entry) -> &'static str {
    match (entry.event, entry.outcome) {
        (_, "AccessDenied") => DENIED,
        (Event::Token, GRANTED) => GIVEN,
        (Event::LoginEnd, _) => LOGIN,
        (_, GRANTED) => DONE,
        _ => FAILED,
    }
}

fn message(entry: &Entry) -> String {
    let (account, caller) = (entry.account.as_str(), &entry.caller);
    let mut message = match (entry.event, entry.outcome) {
        (Event::Token, GRANTED) => format!("gave a token of {account:?} to {caller}"),
        (Event::LoginEnd, outcome) => format!("the login to {account:?} that {caller} began {outcome}"),
        (event, GRANTED) => format!("did {:?} for {account:?} as {caller} asked", event.as_str()),
        (event, outcome) => format!("{:?} for {account:?}, asked by {caller}: {outcome}", event.as_str()),
    };
    let expires = i64::try_from(entry.expires).ok().filter(|seconds| *seconds > 0);
    if let Some(expires) = expires.and_then(|seconds| Timestamp::from_second(seconds).ok()) {
        let _ = write!(message, "; it is valid until {expires}");
    }
    if entry.count > 1 {
        let _ = write!(message, " ({} times)", entry.count);
    }
    message
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::caller::{Caller, Kind};
    use super::super::log::Log;
    use super::*;
    use crate::account::AccountName;

    const CATALOG: &str = include_str!("../../systemd/bearerd.catalog");

    fn told(event: Event, outcome: &'static str, expires: u64) -> Entry {
        let chain = "busctl ← bash".to_owned();
        let caller = Caller::new(Kind::Host, 1000, 42, "/usr/bin/busctl".into(), "x.scope", chain);
        let account = AccountName::parse("work").unwrap();
        Log::default().note(5, event, &account, &Arc::new(caller), outcome, expires).remove(0)
    }

    #[test]
    fn a_record_has_its_fields_and_says_it_in_a_sentence() {
        let record = record(&told(Event::Token, GRANTED, 1_800_000_000));
        for line in [
            "MESSAGE=gave a token of \"work\" to exe:/usr/bin/busctl (busctl ← bash); it is valid until 2027-01-15T08:00:00Z",
            "MESSAGE_ID=70716dec3c4d495ea340f16399e143b0",
            "BEARERD_CALLER=exe:/usr/bin/busctl",
            "BEARERD_CALLER_UNIT=x.scope",
            "BEARERD_COUNT=1",
        ] {
            assert!(record.lines().any(|found| found == line), "{line}\n{record}");
        }
        assert!(message(&told(Event::Logout, "AccessDenied", 0)).ends_with("(busctl ← bash): AccessDenied"));
    }

    #[test]
    fn the_catalog_explains_every_message_and_no_other() {
        let explained: Vec<&str> = CATALOG.lines().filter_map(|line| line.strip_prefix("-- ")).collect();
        assert_eq!(explained, [GIVEN, DENIED, FAILED, LOGIN, DONE]);
    }
}
