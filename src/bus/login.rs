//! A login attempt's object, `org.bearerd.Broker1.Login`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use zbus::interface;
use zbus::message::Header;
use zbus::zvariant::{OwnedObjectPath, Value};

use super::gate::Permit;
use super::peer::Door;
use super::{Bus, Error, LOGIN_INTERFACE};
use crate::access::log::Event;
use crate::account::AccountName;
use crate::login::{Attempt, AttemptView};

/// The longest that one `Wait` lasts; callers give up after 25 s.
const MAX_WAIT: Duration = Duration::from_secs(20);
/// How long an attempt stays readable after its end.
const KEPT: Duration = Duration::from_secs(600);
/// How many ended attempts of an account stay readable: no caller can fill the memory.
const MOST_KEPT: usize = 10;

/// The ended attempts that stay readable for now, by account and oldest first; one whose end of the channel is
/// dropped does not any more.
#[derive(Default)]
pub(super) struct Ended(Mutex<BTreeMap<AccountName, VecDeque<oneshot::Sender<()>>>>);

impl Ended {
    /// Ends when later attempts have taken the place of this one.
    async fn displaced(&self, account: &AccountName) {
        let (place, displaced) = oneshot::channel();
        {
            let mut ended = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let places = ended.entry(account.clone()).or_default();
            places.push_back(place);
            if places.len() > MOST_KEPT {
                places.pop_front();
            }
        }
        // Nothing is ever sent.
        let _ = displaced.await;
    }
}

pub(super) struct Login {
    bus: Arc<Bus>,
    attempt: Arc<Attempt>,
}

impl Login {
    pub(super) fn new(bus: Arc<Bus>, attempt: Arc<Attempt>) -> Self {
        Self { bus, attempt }
    }

    async fn permit(&self, header: &Header<'_>, event: Event) -> Result<Permit, Error> {
        let account = self.bus.accounts.account(self.attempt.account.as_str())?;
        self.bus.gate.permit(&Door::Bus, header, &account.config, event).await
    }
}

/// One login attempt. It stays readable for 10 minutes after its end, unless 10 later ones of its account have ended.
///
/// State is one of pending, succeeded, cancelled, denied, failed, expired.
#[interface(name = "org.bearerd.Broker1.Login", introspection_docs = true)]
impl Login {
    /// Waits for the end for at most timeout_ms milliseconds and 20 s, and returns the state then;
    /// 0 returns it at once. Never an error.
    #[zbus(out_args("state"))]
    async fn wait(&self, timeout_ms: u32, #[zbus(header)] header: Header<'_>) -> &'static str {
        // One too many does not wait: it is never an error.
        let Ok(_call) = self.bus.in_flight.enter(Door::Bus.peer(&header)) else {
            return self.attempt.view().state.as_str();
        };
        let timeout = Duration::from_millis(timeout_ms.into()).min(MAX_WAIT);
        tokio::select! {
            biased;
            state = self.attempt.ended() => state.as_str(),
            () = self.bus.clock().sleep(timeout) => self.attempt.view().state.as_str(),
        }
    }

    /// Takes the whole address on which the browser ended, where it could not come back by itself.
    /// A wrong one is InvalidArgument, and the attempt goes on.
    async fn complete(&self, redirect_url: &str, #[zbus(header)] header: Header<'_>) -> Result<(), Error> {
        let _call = self.bus.in_flight.enter(Door::Bus.peer(&header))?;
        let permit = self.permit(&header, Event::Complete).await?;
        let taken = self.attempt.complete(redirect_url).map_err(|why| {
            Error::invalid_argument(format!(
                "{why}; give the whole address that the browser shows after the login to {}",
                self.attempt.account
            ))
        });
        permit.run(async { taken }).await
    }

    /// Ends the attempt; one that has ended stays as it is.
    async fn cancel(&self, #[zbus(header)] header: Header<'_>) -> Result<(), Error> {
        let _call = self.bus.in_flight.enter(Door::Bus.peer(&header))?;
        let permit = self.permit(&header, Event::Cancel).await?;
        self.attempt.cancel();
        self.attempt.ended().await;
        permit.run(async { Ok::<(), Error>(()) }).await
    }

    /// The account's name.
    #[zbus(property(emits_changed_signal = "const"))]
    fn account(&self) -> String {
        self.attempt.account.to_string()
    }

    /// How the user logs in: "code", "device" or "paste".
    #[zbus(property(emits_changed_signal = "const"))]
    fn flow(&self) -> &'static str {
        self.attempt.options.flow.as_str()
    }

    /// One of pending, succeeded, cancelled, denied, failed, expired.
    #[zbus(property)]
    fn state(&self) -> &'static str {
        self.attempt.view().state.as_str()
    }

    /// The address to open in a browser; empty at the end.
    #[zbus(property)]
    fn url(&self) -> String {
        self.attempt.view().url
    }

    /// The code to type in at VerificationUri; empty outside a pending device login.
    #[zbus(property)]
    fn user_code(&self) -> String {
        self.attempt.view().user_code
    }

    /// Where the user types the code; empty outside a pending device login.
    #[zbus(property)]
    fn verification_uri(&self) -> String {
        self.attempt.view().verification_uri
    }

    /// The same with the code in it; empty outside a pending device login.
    #[zbus(property)]
    fn verification_uri_complete(&self) -> String {
        self.attempt.view().verification_uri_complete
    }

    /// A stable word for what went wrong; empty otherwise.
    #[zbus(property)]
    fn error(&self) -> String {
        self.attempt.view().error
    }

    /// A sentence for people that ends with what to do.
    #[zbus(property)]
    fn error_message(&self) -> String {
        self.attempt.view().error_message
    }

    /// When a pending attempt ends by itself, in Unix seconds.
    #[zbus(property(emits_changed_signal = "const"))]
    fn expires(&self) -> u64 {
        self.attempt.expires
    }
}

/// Announces what changes until the end, and takes the object away ten minutes later, or ten attempts.
pub(super) async fn announce(bus: Arc<Bus>, attempt: Arc<Attempt>, path: OwnedObjectPath) {
    let mut views = attempt.subscribe();
    let mut before = views.borrow_and_update().clone();
    while !before.state.is_over() && views.changed().await.is_ok() {
        let after = views.borrow_and_update().clone();
        let pairs = properties(&after).into_iter().zip(properties(&before));
        let changed: HashMap<&str, Value<'_>> =
            pairs.filter(|(new, old)| new != old).map(|(new, _)| new).collect();
        bus.emit_changed(&path, LOGIN_INTERFACE, changed).await;
        before = after;
    }
    tokio::select! {
        () = bus.clock().sleep(KEPT) => {}
        () = bus.ended_logins.displaced(&attempt.account) => {}
    }
    bus.drop_login(&attempt.id, &path).await;
}

fn properties(view: &AttemptView) -> [(&'static str, Value<'static>); 7] {
    [
        ("State", Value::from(view.state.as_str())),
        ("Url", Value::from(view.url.clone())),
        ("UserCode", Value::from(view.user_code.clone())),
        ("VerificationUri", Value::from(view.verification_uri.clone())),
        ("VerificationUriComplete", Value::from(view.verification_uri_complete.clone())),
        ("Error", Value::from(view.error.clone())),
        ("ErrorMessage", Value::from(view.error_message.clone())),
    ]
}
