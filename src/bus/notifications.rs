//! Tells the user what only they can do, through the desktop's notification server.
//!
//! One notification per account, and one for the keyring: replaced, never stacked; withdrawn when its reason is gone; not shown again
//! once the user has closed it, until there is another reason. Without a server nothing happens.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use zbus::names::OwnedUniqueName;
use zbus::proxy::CacheProperties;
use zbus::zvariant::Value;
use zbus::{Connection, MatchRule, Message, MessageStream};

use super::Bus;
use crate::account::AccountName;
use crate::clock::{BootTime, Clock};
use crate::login::LoginOptions;
use crate::session::Need;

/// How long a reason must last: a keyring that opens with the login is no news, nor is a login that is under way.
const SETTLE: Duration = Duration::from_secs(5);
/// For the keyring, which a desktop may unlock a while after the session's start.
const SETTLE_KEYRING: Duration = Duration::from_secs(30);

/// A server that takes longer is none. Nobody reads its signals meanwhile, and once they are too many nothing else is
/// read from the bus, the answer that we wait for neither.
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);

const SERVER: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";
const SILENT: &str = "the notification server does not answer";
const LOG_IN: &str = "login";
const UNLOCK: &str = "unlock";
/// A click on the notification itself.
const DEFAULT: &str = "default";

#[zbus::proxy(
    interface = "org.freedesktop.Notifications",
    default_service = "org.freedesktop.Notifications",
    default_path = "/org/freedesktop/Notifications",
    gen_blocking = false
)]
pub(super) trait Notifications {
    fn close_notification(&self, id: u32) -> zbus::Result<()>;

    fn get_capabilities(&self) -> zbus::Result<Vec<String>>;
}

/// Where accounts say what they need; cheap to clone.
#[derive(Clone)]
pub(super) struct Notifier(mpsc::UnboundedSender<(AccountName, Option<Told>)>);

/// A reason, and the account's sentence about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) need: Need,
    pub(super) message: String,
}

impl Notifier {
    /// Follows what is said, until `bus` ends.
    pub(super) fn start(bus: Weak<Bus>, connection: Connection, clock: Clock) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let (needs, cards) = (BTreeMap::new(), BTreeMap::new());
        tokio::spawn(Desk { bus, connection, clock, server: None, needs, cards }.work(receiver));
        Self(sender)
    }

    /// What the account needs now.
    pub(super) fn tell(&self, account: &AccountName, told: Option<Told>) {
        // It ends with the bus only.
        let _ = self.0.send((account.clone(), told));
    }
}

/// Whom a notification is about: one account, or for the keyring (`None`) all that wait for it.
type Subject = Option<AccountName>;

struct Card {
    told: Told,
    /// When to show it; `None` once that is done.
    due: Option<BootTime>,
    /// As the server knows it; `None` before it is shown, and after the user has closed it.
    id: Option<u32>,
    /// The window system's permission to come to the front, from the click.
    activation: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Action(u32, String),
    Activation(u32, String),
    Closed(u32),
}

/// A notification server, and what it says.
///
/// **Invariant:** only the connection that showed a notification is believed about it. Every program can send us
/// a signal that looks like the server's: to one connection alone the bus delivers it whatever the match rule says.
pub(super) struct Server {
    pub(super) proxy: NotificationsProxy<'static>,
    signals: MessageStream,
    /// Who answered the last `Notify`.
    owner: Option<OwnedUniqueName>,
}

/// What a notification shows: its buttons are key and label in turn.
pub(super) struct Text<'a> {
    pub(super) summary: &'a str,
    pub(super) body: &'a str,
    pub(super) actions: &'a [&'a str],
    pub(super) urgency: u8,
    /// In milliseconds; 0: it stays, -1: as the server has it.
    pub(super) lifetime: i32,
}

/// The task's state.
struct Desk {
    bus: Weak<Bus>,
    connection: Connection,
    clock: Clock,
    /// Looked for when there is something to show.
    server: Option<Server>,
    needs: BTreeMap<AccountName, Told>,
    cards: BTreeMap<Subject, Card>,
}

impl Desk {
    async fn work(mut self, mut needs: mpsc::UnboundedReceiver<(AccountName, Option<Told>)>) {
        loop {
            let due = self.cards.values().filter_map(|card| card.due).min();
            tokio::select! {
                need = needs.recv() => match need {
                    Some((account, told)) => self.take(account, told).await,
                    None => return,
                },
                event = next(&mut self.server) => match event {
                    Some(event) => self.handle(event),
                    None => self.server = None,
                },
                () = until(&self.clock, due) => self.show_due().await,
            }
        }
    }

    async fn take(&mut self, account: AccountName, told: Option<Told>) {
        match told {
            Some(told) => self.needs.insert(account, told),
            None => self.needs.remove(&account),
        };
        let mut wanted: BTreeMap<Subject, Told> = BTreeMap::new();
        for (account, told) in &self.needs {
            let subject = (told.need != Need::Unlock).then(|| account.clone());
            wanted.entry(subject).or_insert_with(|| told.clone());
        }
        let gone: Vec<Subject> =
            self.cards.keys().filter(|subject| !wanted.contains_key(subject)).cloned().collect();
        for subject in gone {
            let id = self.cards.remove(&subject).and_then(|card| card.id);
            self.withdraw(id).await;
        }
        let now = self.clock.now().boot;
        for (subject, told) in wanted {
            match self.cards.get_mut(&subject) {
                // The same once more, in other words at most: nobody needs to be told twice.
                Some(card) if card.told.need == told.need => card.told = told,
                Some(card) => (card.told, card.due) = (told, Some(now)),
                None => {
                    let settle = if told.need == Need::Unlock { SETTLE_KEYRING } else { SETTLE };
                    let card = Card { told, due: Some(now.after(settle)), id: None, activation: None };
                    self.cards.insert(subject, card);
                }
            }
        }
    }

    async fn show_due(&mut self) {
        let now = self.clock.now().boot;
        let is_due = |card: &Card| card.due.is_some_and(|due| due <= now);
        let due: Vec<Subject> =
            self.cards.iter().filter(|(_, card)| is_due(card)).map(|(subject, _)| subject.clone()).collect();
        for subject in due {
            if let Err(error) = self.show(&subject).await {
                tracing::debug!(%error, "no notification was shown");
                self.server = None;
            }
        }
    }

    async fn show(&mut self, subject: &Subject) -> zbus::Result<()> {
        let Some(card) = self.cards.get_mut(subject) else { return Ok(()) };
        card.due = None;
        let server = match self.server.take() {
            Some(server) => server,
            None => Server::find(&self.connection).await?,
        };
        let server = self.server.insert(server);
        let (summary, actions) = words(subject.as_ref(), card.told.need);
        let body = escaped(&card.told.message);
        let text = Text { summary: &summary, body: &body, actions, urgency: 1, lifetime: -1 };
        let shown = in_time(&self.clock, server.notify(card.id.unwrap_or_default(), &text)).await;
        card.id = Some(shown.unwrap_or(Err(zbus::Error::Failure(SILENT.to_owned())))?);
        Ok(())
    }

    async fn withdraw(&mut self, id: Option<u32>) {
        if let (Some(id), Some(server)) = (id, &self.server) {
            // That it fails is fine: the user, or the server's end, may have been faster.
            if in_time(&self.clock, server.proxy.close_notification(id)).await.is_none() {
                self.server = None;
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let (Event::Action(id, _) | Event::Activation(id, _) | Event::Closed(id)) = &event;
        // Other programs' notifications are told to everybody too.
        let Some((subject, card)) = self.cards.iter_mut().find(|(_, card)| card.id == Some(*id)) else {
            return;
        };
        match event {
            Event::Activation(_, token) => card.activation = Some(token),
            Event::Closed(_) => card.id = None,
            Event::Action(_, key) => {
                let (activation, subject) = (card.activation.take(), subject.clone());
                match (subject, card.told.need, key.as_str()) {
                    (Some(account), Need::LogIn | Need::LogInSoon, LOG_IN | DEFAULT) => {
                        self.log_in(account, activation);
                    }
                    (None, _, UNLOCK | DEFAULT) => {
                        if let Some(bus) = self.bus.upgrade() {
                            bus.accounts.unlock_store();
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// A task: the provider may take its time, and the server's signals are to be read meanwhile.
    fn log_in(&self, account: AccountName, activation: Option<String>) {
        let Some(bus) = self.bus.upgrade() else { return };
        tokio::spawn(async move {
            if let Err(error) = bus.log_in(&account, activation).await {
                tracing::warn!(%account, %error, "no login was started");
            }
        });
    }
}

impl Bus {
    /// A login that the user has asked for at the desktop.
    async fn log_in(
        self: &Arc<Self>,
        account: &AccountName,
        activation: Option<String>,
    ) -> Result<(), super::Error> {
        let started = self.accounts.account(account.as_str())?.session.login(LoginOptions::default()).await?;
        self.serve_login(&started.attempt).await?;
        // Joined or not: the user wants to see the page.
        self.open_in_browser(started.attempt.view().url, activation);
        Ok(())
    }
}

impl Server {
    pub(super) async fn find(connection: &Connection) -> zbus::Result<Self> {
        let builder = NotificationsProxy::builder(connection).cache_properties(CacheProperties::No);
        let proxy = builder.build().await?;
        let rule = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .sender(SERVER)?
            .path(PATH)?
            .interface(SERVER)?
            .build();
        let signals = MessageStream::for_match_rule(rule, connection, None).await?;
        Ok(Self { proxy, signals, owner: None })
    }

    /// Shows a notification, in the place of the one with that id unless it is 0, and returns its id.
    pub(super) async fn notify(&mut self, replaces: u32, text: &Text<'_>) -> zbus::Result<u32> {
        let hints =
            HashMap::from([("category", Value::from("network")), ("urgency", Value::from(text.urgency))]);
        let (Text { summary, body, actions, .. }, icon) = (text, "dialog-password");
        let shown = ("bearerd", replaces, icon, summary, body, actions, hints, text.lifetime);
        let reply = self.proxy.inner().call_method("Notify", &shown).await?;
        self.owner = reply.header().sender().map(|name| name.to_owned().into());
        reply.body().deserialize()
    }

    fn said(&self, message: &Message) -> bool {
        let header = message.header();
        header.sender().is_some_and(|sender| self.owner.as_ref().is_some_and(|owner| sender == owner.inner()))
    }
}

/// What a signal of the server says, if it is one of those that matter.
fn event(message: &Message) -> Option<Event> {
    let (header, body) = (message.header(), message.body());
    match header.member()?.as_str() {
        "ActionInvoked" => body.deserialize().ok().map(|(id, key)| Event::Action(id, key)),
        "ActivationToken" => body.deserialize().ok().map(|(id, token)| Event::Activation(id, token)),
        "NotificationClosed" => body.deserialize::<(u32, u32)>().ok().map(|(id, _)| Event::Closed(id)),
        _ => None,
    }
}

/// The server's next event; `None` when there will be none any more.
pub(super) async fn next(server: &mut Option<Server>) -> Option<Event> {
    let Some(server) = server else { return std::future::pending().await };
    loop {
        let message = server.signals.next().await?.ok()?;
        if let Some(event) = event(&message).filter(|_| server.said(&message)) {
            return Some(event);
        }
    }
}

/// What the server answers; `None` if it takes too long.
pub(super) async fn in_time<T>(clock: &Clock, answer: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        answer = answer => Some(answer),
        () = clock.sleep(SERVER_TIMEOUT) => None,
    }
}

async fn until(clock: &Clock, due: Option<BootTime>) {
    match due {
        Some(due) => clock.sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// A title, and the buttons: key and label in turn. Some servers draw a button for a default action that has a label.
fn words(account: Option<&AccountName>, need: Need) -> (String, &'static [&'static str]) {
    let account = account.map_or("", AccountName::as_str);
    match need {
        Need::LogIn => (format!("Logged out of {account}"), &[DEFAULT, "", LOG_IN, "Log in"]),
        Need::LogInSoon => {
            (format!("The session of {account} ends soon"), &[DEFAULT, "", LOG_IN, "Log in again"])
        }
        Need::Unlock => ("The keyring is locked".to_owned(), &[DEFAULT, "", UNLOCK, "Unlock"]),
        Need::Correct => (format!("{account} is refused by its provider"), &[]),
        Need::Look => (format!("The provider of {account} has been away for a while"), &[]),
    }
}

/// The body may hold markup, and what a provider says must not become any.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
