//! What follows the accounts: `bearerctl status --watch` and `bearerctl monitor`; and the daemon, for `bearerctl log` too.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Map, Value as Json};
use tokio::sync::mpsc;
use zbus::fdo::{DBusProxy, NameOwnerChanged};
use zbus::message::Type;
use zbus::names::OwnedUniqueName;
use zbus::zvariant::{OwnedObjectPath, OwnedValue, Value};
use zbus::{MatchRule, Message, MessageStream};

use super::broker::{Broker, Properties, text};
use super::failure::Failure;
use super::output::{self, Colours};
use super::status;
use crate::bus::{ACCOUNT_INTERFACE, NAME, ROOT_PATH};
use crate::clock::Clock;

const BUS_ENDED: &str = "the session bus ended; run it again in a new session";
/// What the bus calls itself as a sender.
const BUS: &str = "org.freedesktop.DBus";
pub(super) const ENDED: &str =
    "bearerd has ended; waiting for its next start, which any call brings: bearerctl status";
pub(super) const STARTED_AGAIN: &str = "bearerd has started again";
/// How often the times in the table move.
const TICK: Duration = Duration::from_secs(1);
/// Clear from here to the screen's end; go to its first line.
const CLEAR: &str = "\x1b[J";
const HOME: &str = "\x1b[H";

/// Shows the table and follows it until Ctrl-C; without a terminal, a table after each change.
pub(super) async fn table(broker: &Broker, account: Option<&str>) -> Result<(), Failure> {
    let mut followed = Followed::start(broker).await?;
    let clock = clock()?;
    let live = super::stdout_is_terminal();
    let mut interrupt = super::interrupts()?;
    if live {
        // What is on the screen stays above.
        output::raw(&format!("{}{HOME}{CLEAR}", "\n".repeat(usize::from(output::rows()))))?;
    }
    let mut shown = String::new();
    let mut ended = false;
    loop {
        // To ask would start it again.
        let look = if ended { Ok((Vec::new(), ENDED.to_owned())) } else { look(broker, account).await };
        let (accounts, remark) = match look {
            Ok(look) => look,
            Err(failure) if shown.is_empty() => return Err(failure),
            // It may come back, and a bad configuration may be corrected.
            Err(failure) => (Vec::new(), format!("bearerctl: {failure}")),
        };
        loop {
            let (now, fits) = (status::now(&clock), output::columns(std::io::stdout()));
            let mut text = status::table(&accounts, now, Colours::of_stdout(), fits);
            if !remark.is_empty() {
                text = format!("{text}\n{remark}");
            }
            if live {
                output::raw(&format!("{HOME}{CLEAR}{text}\n"))?;
            } else if text != shown {
                output::lines(&text)?;
            }
            shown = text;
            tokio::select! {
                seen = followed.next() => {
                    match seen? {
                        Seen::Ended => ended = true,
                        Seen::Started => ended = false,
                        Seen::Signal(_) => {}
                    }
                    break;
                }
                _ = interrupt.recv() => {
                    output::end_line();
                    return Ok(());
                }
                () = tokio::time::sleep(TICK), if live => {}
            }
        }
    }
}

/// The accounts, and what is to be said about all of them.
async fn look(
    broker: &Broker,
    account: Option<&str>,
) -> Result<(Vec<(String, Properties)>, String), Failure> {
    let accounts = status::accounts(broker, account).await?;
    let remark = if status::paused(broker).await? {
        status::PAUSED
    } else if accounts.is_empty() {
        status::NO_ACCOUNT
    } else {
        ""
    };
    Ok((accounts, remark.to_owned()))
}

/// Prints each change of a state, as text or as a line of JSON, until Ctrl-C.
pub(super) async fn monitor(broker: &Broker, account: Option<&str>, json: bool) -> Result<(), Failure> {
    let mut followed = Followed::start(broker).await?;
    let clock = clock()?;
    let wanted = match account {
        Some(account) => Some(broker.resolve(account).await?),
        None => None,
    };
    let mut states = HashMap::new();
    let mut names = names(broker).await?;
    for (name, properties) in broker.all_properties().await? {
        states.insert(name, text(&properties, "State").to_owned());
    }
    let mut interrupt = super::interrupts()?;
    output::note("following the accounts; Ctrl-C ends");
    let mut ended = false;
    loop {
        let message = tokio::select! {
            seen = followed.next() => match seen? {
                Seen::Signal(message) => message,
                Seen::Ended => {
                    output::note(ENDED);
                    ended = true;
                    continue;
                }
                Seen::Started => {
                    // Our own first call may have started it.
                    if std::mem::take(&mut ended) {
                        output::note(STARTED_AGAIN);
                    }
                    names = self::names(broker).await.unwrap_or(names);
                    continue;
                }
            },
            _ = interrupt.recv() => {
                output::end_line();
                return Ok(());
            }
        };
        let Some((path, changed)) = change(&message) else {
            // Accounts have come or gone.
            names = self::names(broker).await.unwrap_or(names);
            continue;
        };
        let Some(name) = names.get(&path).filter(|name| wanted.as_ref().is_none_or(|wanted| wanted == *name))
        else {
            continue;
        };
        let state = changed.get("State").and_then(|state| state.downcast_ref::<&str>().ok());
        if json {
            let mut object = Map::from_iter([
                ("time".to_owned(), Json::from(clock.now().wall.as_secs())),
                ("account".to_owned(), Json::from(name.as_str())),
            ]);
            object.extend(changed.iter().map(|(key, value)| (status::snake_case(key), plain(value))));
            output::data(&Json::Object(object).to_string())?;
        } else {
            let Some(state) = state else { continue };
            let before = states.get(name).map_or("", String::as_str);
            let message = text(&changed, "StateMessage");
            let colours = Colours::of_stdout();
            let (time, state) = (local_time(&clock), colours.state(state, state));
            let sentence = if message.is_empty() { String::new() } else { format!(": {message}") };
            output::lines(&format!("{time}  {name}: {before} -> {state}{sentence}"))?;
        }
        if let Some(state) = state {
            states.insert(name.clone(), state.to_owned());
        }
    }
}

/// The daemon's signals, its end and its starts.
///
/// **Invariant:** only who owns the daemon's name is believed, and only the bus says who that is. Every program can send
/// us a signal that looks like theirs: to one connection alone the bus delivers it whatever the match rule says.
pub(super) struct Followed {
    /// All in one stream, in the order of the bus: what a daemon says comes between its start and its end.
    messages: mpsc::UnboundedReceiver<Message>,
    owner: Option<OwnedUniqueName>,
    bus: DBusProxy<'static>,
}

pub(super) enum Seen {
    Signal(Message),
    Started,
    Ended,
}

impl Followed {
    pub(super) async fn start(broker: &Broker) -> Result<Self, Failure> {
        let connection = broker.root.inner().connection();
        let bus = DBusProxy::new(connection).await?;
        let signal = || MatchRule::builder().msg_type(Type::Signal);
        let owners = signal().sender(BUS)?.interface(BUS)?.member("NameOwnerChanged")?.arg(0, NAME)?;
        let rules = [signal().sender(NAME)?.path_namespace(ROOT_PATH)?, owners];
        // Before the look at the owner, so that no change is missed.
        let mut messages = MessageStream::from(connection);
        for rule in rules {
            bus.add_match_rule(rule.build()).await.map_err(zbus::Error::from)?;
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        // A full queue would hold up the replies to our own calls.
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let owner = owner(&bus).await?;
        Ok(Self { messages: receiver, owner, bus })
    }

    /// Waits for the daemon's end, or for another one in its place.
    pub(super) async fn change_of_daemon(&mut self) -> Result<Seen, Failure> {
        loop {
            let seen = self.next().await?;
            if !matches!(seen, Seen::Signal(_)) {
                return Ok(seen);
            }
        }
    }

    /// Whether the bus has a change of the daemon for us that `next` has not told.
    pub(super) async fn is_behind(&self) -> Result<bool, Failure> {
        Ok(owner(&self.bus).await? != self.owner)
    }

    pub(super) async fn next(&mut self) -> Result<Seen, Failure> {
        loop {
            let Some(message) = self.messages.recv().await else {
                return Err(Failure::failed(BUS_ENDED));
            };
            if let Some(seen) = self.seen(message) {
                return Ok(seen);
            }
        }
    }

    /// What a message says; `None` if it is not its sender's to say, or nothing to follow.
    fn seen(&mut self, message: Message) -> Option<Seen> {
        if message.message_type() != Type::Signal {
            return None;
        }
        let sender = message.header().sender()?.to_owned();
        if sender == BUS {
            let change = NameOwnerChanged::from_message(message)?;
            let change = change.args().ok().filter(|change| change.name() == NAME)?;
            self.owner = change.new_owner().as_ref().map(|owner| owner.to_owned().into());
            return Some(if self.owner.is_some() { Seen::Started } else { Seen::Ended });
        }
        self.owner.as_ref().is_some_and(|owner| *owner == sender).then_some(Seen::Signal(message))
    }
}

async fn owner(bus: &DBusProxy<'_>) -> Result<Option<OwnedUniqueName>, Failure> {
    // An error: nobody.
    Ok(bus.get_name_owner(NAME.try_into().map_err(zbus::Error::from)?).await.ok())
}

async fn names(broker: &Broker) -> Result<HashMap<OwnedObjectPath, String>, Failure> {
    let accounts = broker.root.list_accounts().await?;
    Ok(accounts.into_iter().map(|(name, path, _)| (path, name)).collect())
}

/// What changed of which account; `None` for other signals.
fn change(message: &Message) -> Option<(OwnedObjectPath, Properties)> {
    let header = message.header();
    if header.member()?.as_str() != "PropertiesChanged" {
        return None;
    }
    let path = OwnedObjectPath::from(header.path()?.to_owned());
    let body = message.body();
    let (interface, changed, _): (&str, Properties, Vec<&str>) = body.deserialize().ok()?;
    (interface == ACCOUNT_INTERFACE).then_some((path, changed))
}

fn plain(value: &OwnedValue) -> Json {
    match &**value {
        Value::Str(text) => Json::from(text.as_str()),
        Value::ObjectPath(path) => Json::from(path.as_str()),
        Value::Bool(flag) => Json::from(*flag),
        Value::U64(number) => Json::from(*number),
        Value::U32(number) => Json::from(*number),
        _ => Json::Null,
    }
}

fn local_time(clock: &Clock) -> String {
    let seconds = i64::try_from(clock.now().wall.as_secs()).unwrap_or(i64::MAX);
    let time =
        Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_zoned_datetime(TimeZone::system());
    time.strftime("%F %T").to_string()
}

fn clock() -> Result<Clock, Failure> {
    Clock::system().map_err(|error| Failure::failed(format!("no clock: {error}")))
}
