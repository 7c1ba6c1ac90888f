//! An account's object, `org.bearerd.Broker1.Account`: its state, never a token.

use std::collections::HashMap;
use std::sync::Arc;

use zbus::interface;
use zbus::message::Header;
use zbus::zvariant::{OwnedObjectPath, Value};

use super::error::Error;
use super::notifications::Told;
use super::peer::Door;
use super::{ACCOUNT_INTERFACE, Bus, Unannounced, login_path, no_path};
use crate::access::log::Event;
use crate::accounts::Account as Configured;
use crate::clock::{BootTime, Now};
use crate::config::Source;
use crate::session::Published;

pub(super) struct Account {
    bus: Arc<Bus>,
    account: Arc<Configured>,
}

impl Account {
    pub(super) fn new(bus: Arc<Bus>, account: Arc<Configured>) -> Self {
        Self { bus, account }
    }

    fn published(&self) -> Published {
        self.account.session.published()
    }

    fn seconds(&self, deadline: Option<BootTime>) -> u64 {
        seconds(&self.bus.clock().now(), deadline)
    }
}

fn seconds(now: &Now, deadline: Option<BootTime>) -> u64 {
    deadline.map_or(0, |at| now.wall_seconds_at(at))
}

fn login_attempt(published: &Published) -> OwnedObjectPath {
    published.login.as_ref().and_then(|attempt| login_path(&attempt.id).ok()).unwrap_or_else(no_path)
}

/// One configured account.
///
/// Times are Unix seconds, 0 for none. State is one of not-configured, refused, store-unavailable,
/// store-locked, expired, logged-out, offline, unsaved, ready; StateReason is a stable word for why,
/// StateMessage a sentence for people.
#[interface(name = "org.bearerd.Broker1.Account", introspection_docs = true)]
impl Account {
    /// Refreshes the access token now; rate limited.
    async fn refresh(&self, #[zbus(header)] header: Header<'_>) -> Result<(), Error> {
        let _call = self.bus.in_flight.enter(Door::Bus.peer(&header))?;
        let permit = self.bus.gate.permit(&Door::Bus, &header, &self.account.config, Event::Refresh).await?;
        permit.run(self.account.session.refresh()).await
    }

    /// As configured; the object's path encodes it.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> String {
        self.account.config.name.to_string()
    }

    /// The preset's name; empty without one.
    #[zbus(property(emits_changed_signal = "const"))]
    fn provider(&self) -> String {
        self.account.config.provider.clone()
    }

    /// The provider's identifier: its issuer, or else the token endpoint's origin.
    #[zbus(property(emits_changed_signal = "const"))]
    fn issuer(&self) -> String {
        self.account.config.issuer.clone()
    }

    /// "oauth" or "personal".
    #[zbus(property(emits_changed_signal = "const"))]
    fn source(&self) -> &'static str {
        match self.account.config.source {
            Source::OAuth(_) => "oauth",
            Source::Personal => "personal",
        }
    }

    /// Where helpers such as bearerctl's may send the token, as origins; empty when none is configured.
    #[zbus(property(emits_changed_signal = "const"))]
    fn api_origins(&self) -> Vec<String> {
        self.account.config.api_origins.clone()
    }

    /// Who is logged in, for people.
    #[zbus(property)]
    fn subject(&self) -> String {
        self.published().view.subject
    }

    /// The granted scope, space separated.
    #[zbus(property)]
    fn scope(&self) -> String {
        self.published().view.scope
    }

    /// The first that holds of: not-configured, refused, store-unavailable, store-locked, expired, logged-out,
    /// offline, unsaved, ready. An offline or unsaved account may still have a valid token: see AccessExpires.
    #[zbus(property)]
    fn state(&self) -> &'static str {
        self.published().view.state.as_str()
    }

    /// A stable word for why, for programs; empty when there is nothing to say.
    #[zbus(property)]
    fn state_reason(&self) -> &'static str {
        self.published().view.reason
    }

    /// A sentence for people, with times, that ends with what to do.
    #[zbus(property)]
    fn state_message(&self) -> String {
        self.published().view.message
    }

    /// Whether a user has to do something.
    #[zbus(property)]
    fn needs_attention(&self) -> bool {
        self.published().view.needs_attention
    }

    /// When the current access token expires, in Unix seconds; 0 without one, or when that is unknown.
    #[zbus(property)]
    fn access_expires(&self) -> u64 {
        self.seconds(self.published().view.access_expires)
    }

    /// When the provider ends the session unless it is renewed, in Unix seconds; 0 when that is unknown.
    #[zbus(property)]
    fn session_expires(&self) -> u64 {
        self.seconds(self.published().view.session_expires)
    }

    /// When the session is renewed next, in Unix seconds; 0 when nothing is planned.
    #[zbus(property)]
    fn next_refresh(&self) -> u64 {
        self.seconds(self.published().view.next_refresh)
    }

    /// When new tokens came last, in Unix seconds; 0 for not since the daemon started.
    #[zbus(property)]
    fn last_refresh(&self) -> u64 {
        self.seconds(self.published().view.last_refresh)
    }

    /// The pending login's object; "/" for none.
    #[zbus(property)]
    fn login_attempt(&self) -> OwnedObjectPath {
        login_attempt(&self.published())
    }

    /// Where the session is kept: "secret-service" or "memory".
    #[zbus(property(emits_changed_signal = "const"))]
    fn store(&self) -> &'static str {
        self.account.store_name
    }
}

/// Announces every change of the account as one `PropertiesChanged` with all that changed, until
/// its session ends. What it does rarely is boxed, for each account has such a task.
pub(super) async fn announce(bus: Arc<Bus>, mut new: Unannounced) {
    let session = &new.account.session;
    let mut watch = session.watch();
    // It may have changed since it was shown.
    watch.mark_changed();
    let mut told = None;
    loop {
        let needed = need(&new.shown);
        if needed != told {
            bus.notifier.tell(&new.account.config.name, needed.clone());
            told = needed;
        }
        if watch.changed().await.is_err() {
            return;
        }
        let current = watch.borrow_and_update().clone();
        if let Some(attempt) = &current.login {
            // Whoever follows LoginAttempt must find the object.
            if let Err(error) = Box::pin(bus.serve_login(attempt)).await {
                tracing::error!(%error, "cannot serve a login object");
            }
        }
        let changed = changes(&new.shown, &current, &bus.clock().now());
        new.shown = current;
        if changed.is_empty() {
            continue;
        }
        if let Some(Value::Str(state)) = changed.get("State") {
            let (account, reason) = (&new.account.config.name, new.shown.view.reason);
            tracing::info!(%account, state = state.as_str(), reason, "account state");
        }
        bus.note_state();
        Box::pin(bus.emit_changed(&new.path, ACCOUNT_INTERFACE, changed)).await;
    }
}

fn changes(old: &Published, new: &Published, now: &Now) -> HashMap<&'static str, Value<'static>> {
    let (old, new) = (properties(old, now), properties(new, now));
    new.into_iter().zip(old).filter(|(new, old)| new != old).map(|(new, _)| new).collect()
}

/// What the user should be told; nothing while they are about to mend it.
fn need(published: &Published) -> Option<Told> {
    let need = published.view.need().filter(|_| published.login.is_none())?;
    Some(Told { need, message: published.view.message.clone() })
}

fn properties(published: &Published, now: &Now) -> [(&'static str, Value<'static>); 11] {
    let view = &published.view;
    [
        ("Subject", Value::from(view.subject.clone())),
        ("Scope", Value::from(view.scope.clone())),
        ("State", Value::from(view.state.as_str())),
        ("StateReason", Value::from(view.reason)),
        ("StateMessage", Value::from(view.message.clone())),
        ("NeedsAttention", Value::from(view.needs_attention)),
        ("AccessExpires", Value::from(seconds(now, view.access_expires))),
        ("SessionExpires", Value::from(seconds(now, view.session_expires))),
        ("NextRefresh", Value::from(seconds(now, view.next_refresh))),
        ("LastRefresh", Value::from(seconds(now, view.last_refresh))),
        ("LoginAttempt", Value::from(login_attempt(published))),
    ]
}
