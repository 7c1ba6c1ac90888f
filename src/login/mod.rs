//! Logins: one attempt per account at a time, shared by everybody who asked for it.
//!
//! An [`Attempt`] is what others see and hold; `code::run` drives it through the code flow, `device::run`
//! through the device flow.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::account::AccountName;
use crate::clock::{BootTime, Now};
use crate::oidc::authorization::AuthorizationRequest;
use gate::{Gate, Offer};

pub mod code;
pub(crate) mod device;
pub(crate) mod gate;
pub mod loopback;
mod page;
mod peer;

/// How the response comes back to us.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Flow {
    /// Through a listener on loopback.
    #[default]
    Code,
    /// On another device, by a code (RFC 8628).
    Device,
    /// The user brings the address on which the browser ended; for a browser on another machine.
    Paste,
}

impl Flow {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Device => "device",
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LoginState {
    #[default]
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptView {
    pub state: LoginState,
    /// Empty at the end.
    pub url: String,
    /// Until when the address can be opened, where the provider limits it (RFC 9126 section 2.2).
    pub url_until: Option<BootTime>,
    /// What the user needs for the device flow; empty outside it and at the end.
    pub user_code: String,
    pub verification_uri: String,
    pub verification_uri_complete: String,
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
    /// `None` in the device flow, where no address comes back.
    gate: Option<Arc<Gate>>,
    view: watch::Sender<AttemptView>,
    cancel: CancellationToken,
}

impl Attempt {
    pub(crate) fn new(
        account: AccountName,
        view: AttemptView,
        expires: u64,
        options: LoginOptions,
        gate: Option<Arc<Gate>>,
    ) -> Result<Self, getrandom::Error> {
        let mut random = [0_u8; 16];
        getrandom::fill(&mut random)?;
        let id = random.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let id = id.filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
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
        let Some(gate) = &self.gate else { return Err("this login waits for its code, and for no address") };
        match gate.offer_url(address) {
            Offer::Taken | Offer::Again(_) => Ok(()),
            Offer::Stray(why) => Err(why),
            Offer::AlreadyUsed => Err("the login has its answer already"),
        }
    }

    /// The request, if the time for opening its address is over.
    pub(crate) fn stale_request(&self, now: &Now) -> Option<Arc<AuthorizationRequest>> {
        let over = self.view.borrow().url_until.is_some_and(|until| until <= now.boot);
        self.gate.as_ref().filter(|_| over).map(|gate| gate.request())
    }

    /// Puts a fresh address in the place of one that cannot be opened any more.
    pub(crate) fn renew_url(&self, url: String, until: Option<BootTime>) {
        self.view.send_if_modified(|view| {
            let pending = !view.state.is_over();
            if pending {
                view.url = url;
                view.url_until = until;
            }
            pending
        });
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
            for secret in [
                &mut view.url,
                &mut view.user_code,
                &mut view.verification_uri,
                &mut view.verification_uri_complete,
            ] {
                secret.clear();
            }
            error.clone_into(&mut view.error);
            view.error_message = error_message;
        });
    }
}
