//! The desktop's notification server: what is shown through it, and what it says of that.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use zbus::names::OwnedUniqueName;
use zbus::proxy::CacheProperties;
use zbus::zvariant::Value;
use zbus::{Connection, MatchRule, Message, MessageStream};

use crate::clock::Clock;

/// A server that takes longer is none. Nobody reads its signals meanwhile, and once they are too many nothing else is
/// read from the bus, the answer that we wait for neither.
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);

const SERVER: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";

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
    pub(super) owner: Option<OwnedUniqueName>,
}

/// What a notification shows: its buttons are key and label in turn.
pub(super) struct Text {
    pub(super) summary: String,
    pub(super) body: String,
    pub(super) actions: Vec<&'static str>,
    pub(super) urgency: u8,
    /// In milliseconds; 0: it stays, -1: as the server has it.
    pub(super) lifetime: i32,
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

    /// Shows a notification, in the place of the one with that id unless it is 0; the answer is for [`Self::shown`].
    pub(super) fn notify(
        &self,
        replaces: u32,
        text: Text,
    ) -> impl Future<Output = zbus::Result<Message>> + Send + use<> {
        let proxy = self.proxy.inner().clone();
        async move {
            let urgency = Value::from(text.urgency);
            let hints = HashMap::from([("category", Value::from("network")), ("urgency", urgency)]);
            let Text { summary, body, actions, lifetime, .. } = text;
            let shown = ("bearerd", replaces, "dialog-password", summary, body, actions, hints, lifetime);
            proxy.call_method("Notify", &shown).await
        }
    }

    /// The notification's id, from the answer.
    pub(super) fn shown(&mut self, reply: &Message) -> zbus::Result<u32> {
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
    clock.within(SERVER_TIMEOUT, answer).await
}

/// The body may hold markup, and what a provider says must not become any.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
