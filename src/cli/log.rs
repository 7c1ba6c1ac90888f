//! `bearerctl log`.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value as Json};

use super::broker::{Broker, Properties, number, text};
use super::failure::Failure;
use super::output;
use super::watch::{ENDED, Followed, STARTED_AGAIN, Seen};
use crate::clock::Clock;

/// How long a call waits for something new.
const WAIT_MS: u32 = 20_000;
/// A program that asks all the time shall not make a line all the time.
const PAUSE: Duration = Duration::from_secs(1);

/// Which entries are shown.
pub(super) struct Wanted {
    pub(super) account: Option<String>,
    pub(super) caller: Option<String>,
    pub(super) outcome: Option<String>,
    pub(super) follow: bool,
    pub(super) json: bool,
}

pub(super) async fn print(broker: &Broker, wanted: &Wanted) -> Result<(), Failure> {
    let access = broker.access().await?;
    let clock = Clock::system().map_err(|error| Failure::failed(format!("no clock: {error}")))?;
    let (mut after, mut entries) = access.read_log(0, 0).await?;
    if !entries.iter().any(|entry| wanted.takes(entry)) {
        output::note(&wanted.missed(&entries));
    }
    // After the first look, which may have started the daemon.
    let mut following =
        if wanted.follow { Some((Followed::start(broker).await?, super::interrupts()?)) } else { None };
    let mut ended = false;
    loop {
        for entry in entries.iter().filter(|entry| wanted.takes(entry)) {
            if wanted.json {
                output::data(&object(entry).to_string())?;
            } else {
                output::lines(&line(entry, &TimeZone::system()))?;
            }
        }
        let Some((followed, interrupt)) = &mut following else { return Ok(()) };
        let more = async {
            clock.sleep(PAUSE).await;
            access.read_log(after, WAIT_MS).await
        };
        // A daemon that was started anew counts anew.
        (after, entries) = tokio::select! {
            biased;
            more = more, if !ended => match more {
                Ok((next, more)) if next >= after => (next, more),
                Ok(_) => (0, Vec::new()),
                // It was asked as it ended, which the bus is about to say.
                Err(_) if followed.is_behind().await? => {
                    ended = true;
                    (after, Vec::new())
                }
                Err(error) => return Err(error.into()),
            },
            seen = followed.change_of_daemon() => {
                // To ask an ended one would start it again.
                ended = matches!(seen?, Seen::Ended);
                output::note(if ended { ENDED } else { STARTED_AGAIN });
                (0, Vec::new())
            }
            _ = interrupt.recv() => {
                output::end_line();
                return Ok(());
            }
        };
    }
}

impl Wanted {
    /// What was looked for in vain, and what to do.
    fn missed(&self, entries: &[Properties]) -> String {
        let next = if self.follow {
            "it goes on with what comes (Ctrl-C ends)"
        } else {
            "for all run: bearerctl log"
        };
        let account = self.account.as_ref().map(|name| format!("account {name:?}"));
        let caller = self.caller.as_ref().map(|part| format!("a caller with {part:?}"));
        let outcome = self.outcome.as_ref().map(|word| {
            let seen: BTreeSet<&str> = entries.iter().map(|entry| text(entry, "outcome")).collect();
            format!("outcome {word:?} (there are: {})", Vec::from_iter(seen).join(", "))
        });
        let wanted: Vec<String> = [account, caller, outcome].into_iter().flatten().collect();
        match (entries.len(), wanted.as_slice()) {
            (0, _) if self.follow => format!("nobody has asked for anything yet; {next}"),
            (0, _) => {
                "nobody has asked for anything yet; to see it come run: bearerctl log --follow".to_owned()
            }
            (count, wanted) => format!("none of {count} entries has {}; {next}", wanted.join(" and ")),
        }
    }

    fn takes(&self, entry: &Properties) -> bool {
        let account = self.account.as_deref().is_none_or(|name| text(entry, "account") == name);
        let outcome = self.outcome.as_deref().is_none_or(|word| text(entry, "outcome") == word);
        let caller = self.caller.as_deref().is_none_or(|part| {
            ["caller", "unit", "chain"].iter().any(|name| text(entry, name).contains(part))
        });
        account && outcome && caller
    }
}

/// `12:05:13  work  token  granted  exe:/usr/bin/curl (curl ← bash)  x12`.
fn line(entry: &Properties, zone: &TimeZone) -> String {
    let at = i64::try_from(number(entry, "last")).ok().and_then(|at| Timestamp::from_second(at).ok());
    let at = at.unwrap_or_default().to_zoned_datetime(zone.clone()).strftime("%F %T").to_string();
    let chain = match text(entry, "chain") {
        "" => String::new(),
        chain => format!(" ({chain})"),
    };
    let count = match number(entry, "count") {
        0 | 1 => String::new(),
        count => format!("  x{count}"),
    };
    let word = |name| text(entry, name);
    format!(
        "{at}  {}  {}  {}  {}{chain}{count}",
        word("account"),
        word("event"),
        word("outcome"),
        word("caller")
    )
}

/// An entry as the D-Bus interface has it.
fn object(entry: &Properties) -> Json {
    let mut object = Map::new();
    for name in ["event", "account", "outcome", "caller", "unit", "chain"] {
        object.insert(name.to_owned(), Json::from(text(entry, name)));
    }
    for name in ["number", "first", "last", "count", "expires"] {
        object.insert(name.to_owned(), Json::from(number(entry, name)));
    }
    let pid = entry.get("pid").and_then(|value| value.downcast_ref::<u32>().ok());
    object.insert("pid".to_owned(), Json::from(pid.unwrap_or_default()));
    Json::Object(object)
}

#[cfg(test)]
mod tests {
    use zbus::zvariant::{OwnedValue, Value};

    use super::*;

    #[test]
    fn a_line_says_when_what_and_who_and_filters_take_parts_of_callers() {
        let value = |value: Value<'_>| OwnedValue::try_from(value).unwrap();
        let entry = Properties::from([
            ("account".to_owned(), value("work".into())),
            ("event".to_owned(), value("token".into())),
            ("outcome".to_owned(), value("granted".into())),
            ("caller".to_owned(), value("exe:/usr/bin/curl".into())),
            ("chain".to_owned(), value("curl ← bash".into())),
            ("last".to_owned(), value(1_800_000_000_u64.into())),
            ("count".to_owned(), value(12_u64.into())),
        ]);

        assert_eq!(
            line(&entry, &TimeZone::UTC),
            "2027-01-15 08:00:00  work  token  granted  exe:/usr/bin/curl (curl ← bash)  x12"
        );
        let wanted = |caller: &str, outcome: &str| Wanted {
            account: Some("work".into()),
            caller: Some(caller.into()),
            outcome: Some(outcome.into()),
            follow: false,
            json: false,
        };
        assert!(wanted("bash", "granted").takes(&entry));
        assert!(!wanted("bash", "AccessDenied").takes(&entry) && !wanted("git", "granted").takes(&entry));
        assert_eq!(
            wanted("git", "Granted").missed(&[entry]),
            "none of 1 entries has account \"work\" and a caller with \"git\" and outcome \"Granted\" (there are: granted); \
             for all run: bearerctl log"
        );
        assert!(wanted("git", "granted").missed(&[]).starts_with("nobody has asked for anything yet; "));
    }
}
