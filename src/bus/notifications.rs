//! Tells the user what only they can do, through the desktop's notification server.
//!
//! One notification per account, and one for the keyring: replaced, never stacked; withdrawn when its reason is gone; not shown again
//! once the user has closed it, until there is another reason. Without a server nothing happens.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use zbus::names::OwnedUniqueName;
use zbus::{Connection, Message};

use super::Bus;
use super::notification_server::{Event, NotificationsProxy, Server, Text, escaped, in_time, next};
use crate::account::AccountName;
use crate::clock::{BootTime, Clock};
use crate::login::LoginOptions;
use crate::session::Need;

/// How long a reason must last: a keyring that opens with the login is no news, nor is a login that is under way.
const SETTLE: Duration = Duration::from_secs(5);
/// For the keyring, which a desktop may unlock a while after the session's start.
const SETTLE_KEYRING: Duration = Duration::from_secs(30);

/// How long the reason of a failed click waits for its notification to be due again.
const FAILED: Duration = Duration::from_secs(30);

const LOG_IN: &str = "login";
const UNLOCK: &str = "unlock";
/// A click on the notification itself.
const DEFAULT: &str = "default";

/// Where accounts say what they need; cheap to clone.
#[derive(Clone)]
pub(super) struct Notifier(mpsc::UnboundedSender<News>);

enum News {
    /// What the account needs now.
    Need(AccountName, Option<Told>),
    /// The login that a click asked for has come to nothing, and why.
    Failed(AccountName, String),
    /// The server has answered after all, or has ended.
    Answered,
}

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
        let desk = Desk {
            bus,
            connection,
            clock,
            server: None,
            needs: BTreeMap::new(),
            failed: BTreeMap::new(),
            cards: BTreeMap::new(),
        };
        tokio::spawn(desk.work(receiver));
        Self(sender)
    }

    /// What the account needs now.
    pub(super) fn tell(&self, account: &AccountName, told: Option<Told>) {
        self.send(News::Need(account.clone(), told));
    }

    fn send(&self, news: News) {
        // It ends with the bus only.
        let _ = self.0.send(news);
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
    /// The server did not answer.
    unseen: bool,
    /// The window system's permission to come to the front, from the click.
    activation: Option<String>,
}

/// The task's state.
struct Desk {
    bus: Weak<Bus>,
    connection: Connection,
    clock: Clock,
    /// Looked for when there is something to show.
    server: Option<Server>,
    needs: BTreeMap<AccountName, Told>,
    /// Why the last click came to nothing, to be shown until then.
    failed: BTreeMap<AccountName, (String, BootTime)>,
    cards: BTreeMap<Subject, Card>,
}

impl Desk {
    async fn work(mut self, mut news: mpsc::UnboundedReceiver<News>) {
        loop {
            let due = self.cards.values().filter_map(|card| card.due).min();
            tokio::select! {
                news = news.recv() => match news {
                    Some(News::Need(account, told)) => self.take(account, told).await,
                    Some(News::Failed(account, why)) => self.take_failure(account, why),
                    Some(News::Answered) => self.show_unseen(),
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
                    let settle = match &subject {
                        None => SETTLE_KEYRING,
                        // Who has just clicked waits for what comes of it.
                        Some(account) if self.failed.contains_key(account) => Duration::ZERO,
                        Some(_) => SETTLE,
                    };
                    let due = Some(now.after(settle));
                    let card = Card { told, due, id: None, unseen: false, activation: None };
                    self.cards.insert(subject, card);
                }
            }
        }
    }

    /// Shows the notification again, with the reason: the click may have closed it, and the login that was begun
    /// withdraws it.
    fn take_failure(&mut self, account: AccountName, why: String) {
        let now = self.clock.now().boot;
        if let Some(card) = self.cards.get_mut(&Some(account.clone())) {
            card.due = Some(now);
        }
        self.failed.insert(account, (why, now.after(FAILED)));
    }

    async fn show_due(&mut self) {
        let now = self.clock.now().boot;
        self.failed.retain(|_, (_, until)| *until > now);
        let is_due = |card: &Card| card.due.is_some_and(|due| due <= now);
        let due: Vec<Subject> =
            self.cards.iter().filter(|(_, card)| is_due(card)).map(|(subject, _)| subject.clone()).collect();
        for subject in due {
            match self.show(&subject).await {
                Ok(true) => {}
                // Nor will it answer about the others now.
                Ok(false) => {
                    for card in self.cards.values_mut().filter(|card| is_due(card)) {
                        (card.due, card.unseen) = (None, true);
                    }
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, "no notification was shown");
                    self.server = None;
                }
            }
        }
    }

    fn show_unseen(&mut self) {
        let now = self.clock.now().boot;
        for card in self.cards.values_mut().filter(|card| card.unseen) {
            (card.due, card.unseen) = (Some(now), false);
        }
    }

    /// Whether the server has answered.
    async fn show(&mut self, subject: &Subject) -> zbus::Result<bool> {
        let Some(card) = self.cards.get_mut(subject) else { return Ok(true) };
        card.due = None;
        let server = match self.server.take() {
            Some(server) => server,
            None => Server::find(&self.connection).await?,
        };
        let server = self.server.insert(server);
        let (summary, actions) = words(subject.as_ref(), card.told.need);
        let why = subject.as_ref().and_then(|account| self.failed.remove(account));
        let why = why.map(|(why, _)| why + "\n").unwrap_or_default();
        let body = escaped(&(why + &card.told.message));
        let text = Text { summary, body, actions: actions.to_vec(), urgency: 1, lifetime: -1 };
        let mut reply = Box::pin(server.notify(card.id.unwrap_or_default(), text));
        let Some(answered) = in_time(&self.clock, &mut reply).await else {
            tracing::debug!("the notification server does not answer");
            card.unseen = true;
            tokio::spawn(late(reply, server.proxy.clone(), card.id, self.bus.clone()));
            return Ok(false);
        };
        card.id = Some(server.shown(&answered?)?);
        Ok(true)
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
    fn log_in(&mut self, account: AccountName, activation: Option<String>) {
        self.failed.remove(&account);
        let teller = self.server.as_ref().and_then(|server| server.owner.clone());
        let (Some(bus), Some(teller)) = (self.bus.upgrade(), teller) else { return };
        tokio::spawn(async move {
            if let Err(why) = bus.log_in(&account, activation, teller).await {
                tracing::warn!(%account, why, "a click on \"Log in\" came to nothing");
                bus.notifier.send(News::Failed(account, why));
            }
        });
    }
}

impl Bus {
    /// A login that the user has asked for at the desktop; the error is a sentence for them.
    async fn log_in(
        self: &Arc<Self>,
        account: &AccountName,
        activation: Option<String>,
        teller: OwnedUniqueName,
    ) -> Result<(), String> {
        let failed = |error: super::Error| format!("The login could not be started: {}", error.sentence());
        let configured = self.accounts.account(account.as_str()).map_err(|error| failed(error.into()))?;
        let permit = self.gate.desktop_login(&teller, account).await;
        let started = permit.run(configured.session.login(LoginOptions::default())).await.map_err(failed)?;
        let attempt = Arc::clone(&started.attempt);
        if !started.joined {
            permit.note_end(&attempt);
        }
        self.serve_login(&attempt).await.map_err(|error| failed(error.into()))?;
        // Joined or not: the user wants to see the page.
        let Err(error) = self.open_in_browser(&attempt.view().url, activation.as_deref()).await else {
            return Ok(());
        };
        tracing::debug!(%error, "no portal opened a browser");
        // Nobody sees it; one that was joined is somebody's who has the address.
        if !started.joined {
            attempt.cancel();
            attempt.ended().await;
        }
        Err("No browser could be opened from here.".to_owned())
    }
}

/// Takes an answer that came too late: nobody knows that notification, so it goes, and is shown anew.
async fn late(
    reply: impl Future<Output = zbus::Result<Message>>,
    proxy: NotificationsProxy<'static>,
    replaced: Option<u32>,
    bus: Weak<Bus>,
) {
    if let Ok(reply) = reply.await
        && let Ok(id) = reply.body().deserialize::<u32>()
        && replaced != Some(id)
    {
        let _ = proxy.close_notification(id).await;
    }
    if let Some(bus) = bus.upgrade() {
        bus.notifier.send(News::Answered);
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
