//! Logins: one attempt per account at a time, shared by everybody who asked for it.
//!
//! An [`Attempt`] is what others see and hold; `code::run` drives it through the code flow.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::account::AccountName;
use gate::{Gate, Offer};

pub mod code;
pub(crate) mod gate;
pub mod loopback;
mod page;
mod peer;

/// A pending login ends by itself after this: a wrong redirect URI never redirects back, so a
/// silent provider is normal (RFC 6749 section 4.1.2.1).
pub const LIFETIME: Duration = Duration::from_secs(600);

/// How the response comes back to us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flow {
    /// Through a listener on loopback.
    #[default]
    Code,
    /// The user brings the address on which the browser ended; for a browser on another machine.
    Paste,
}

impl Flow {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Paste => "paste",
        }
    }
}

/// What a login was asked for with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoginOptions {
    pub flow: Flow,
    /// OpenID Connect Core section 3.1.2.1.
    pub prompt: Option<String>,
}

/// How far a login is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginState {
    Pending,
    Succeeded,
    Cancelled,
    Denied,
    Failed,
    Expired,
}

impl LoginState {
    /// Whether the attempt is over.
    #[must_use]
    pub fn is_over(self) -> bool {
        self != Self::Pending
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Cancelled => "cancelled",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Expired => "expired",
        }
    }
}

/// What may be seen of an attempt. The URL holds `state`, and is readable by the same user only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptView {
    pub state: LoginState,
    /// Empty at the end.
    pub url: String,
    /// A stable word, empty unless it went wrong.
    pub error: String,
    /// A sentence with the next step.
    pub error_message: String,
}

/// One login attempt.
pub struct Attempt {
    pub id: String,
    pub account: AccountName,
    /// Seconds since the Unix epoch.
    pub expires: u64,
    pub options: LoginOptions,
    gate: Arc<Gate>,
    view: watch::Sender<AttemptView>,
    cancel: CancellationToken,
}

impl Attempt {
    pub(crate) fn new(
        account: AccountName,
        url: String,
        expires: u64,
        options: LoginOptions,
        gate: Arc<Gate>,
    ) -> Result<Self, getrandom::Error> {
        let mut random = [0_u8; 16];
        getrandom::fill(&mut random)?;
        let id = random.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let id = id.filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
        let view = AttemptView {
            state: LoginState::Pending,
            url,
            error: String::new(),
            error_message: String::new(),
        };
        let (view, cancel) = (watch::Sender::new(view), CancellationToken::new());
        Ok(Self { id, account, expires, options, gate, view, cancel })
    }

    #[must_use]
    pub fn view(&self) -> AttemptView {
        self.view.borrow().clone()
    }

    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<AttemptView> {
        self.view.subscribe()
    }

    #[must_use]
    pub fn is_pending(&self) -> bool {
        !self.view.borrow().state.is_over()
    }

    /// Takes the address on which the browser ended; the same checks as for the listener.
    ///
    /// # Errors
    /// Why it is not this login's; then the login goes on.
    pub fn complete(&self, address: &str) -> Result<(), &'static str> {
        match self.gate.offer_url(address) {
            Offer::Taken => Ok(()),
            Offer::Stray(why) => Err(why),
            Offer::AlreadyUsed => Err("the login has its answer already"),
        }
    }

    /// Ends a pending attempt; an ended one stays as it is.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Waits for the end.
    pub async fn ended(&self) -> LoginState {
        let mut view = self.view.subscribe();
        let ended = view.wait_for(|view| view.state.is_over()).await;
        ended.map_or(LoginState::Failed, |view| view.state)
    }

    pub(crate) async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    pub(crate) fn end(&self, state: LoginState, error: &str, error_message: String) {
        tracing::info!(account = %self.account, state = state.as_str(), error, "login ended");
        self.view.send_modify(|view| {
            view.state = state;
            view.url.clear();
            view.error = error.to_owned();
            view.error_message = error_message;
        });
    }
}
