//! Lets exactly one valid response to a login's request through, whoever brings it: the listener or a paste.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use url::Url;

use crate::oidc::authorization::{AuthorizationRequest, Response};
use crate::secret::AuthorizationCode;

/// What came back through the browser.
pub(crate) enum Outcome {
    Code(AuthorizationCode),
    Denied,
    /// The provider's login page had expired; the browser that said so waits for where to go on.
    Expired(oneshot::Sender<String>),
    Failed {
        code: String,
        message: String,
    },
    /// The listener itself broke.
    Broken,
}

impl Outcome {
    /// The end of a login that is not started again.
    pub(crate) fn page_expired() -> Self {
        Self::Failed {
            code: "temporarily_unavailable".into(),
            message: "its login page had expired before it was answered".into(),
        }
    }
}

/// What became of a response that was brought.
pub(crate) enum Offer {
    Taken,
    /// The browser is to go on at the address that comes, or, when none comes, as for `Taken`.
    Again(oneshot::Receiver<String>),
    /// Nothing of this login, which goes on.
    Stray(&'static str),
    AlreadyUsed,
}

pub(crate) struct Gate {
    waiting: Mutex<Waiting>,
}

struct Waiting {
    request: Arc<AuthorizationRequest>,
    /// `None` once the request has its response.
    outcome: Option<oneshot::Sender<Outcome>>,
}

impl Gate {
    pub(crate) fn new(request: Arc<AuthorizationRequest>) -> (Arc<Self>, oneshot::Receiver<Outcome>) {
        let (sender, outcome) = oneshot::channel();
        (Arc::new(Self { waiting: Mutex::new(Waiting { request, outcome: Some(sender) }) }), outcome)
    }

    /// Waits for the response to another request from now on; one to the old request is a stray.
    pub(crate) fn wait_for(&self, request: Arc<AuthorizationRequest>) -> oneshot::Receiver<Outcome> {
        let (sender, outcome) = oneshot::channel();
        *self.waiting() = Waiting { request, outcome: Some(sender) };
        outcome
    }

    /// The parameters of a response that a browser brings, form-encoded.
    pub(crate) fn offer(&self, parameters: &str) -> Offer {
        let (onward, next) = oneshot::channel();
        match self.take(parameters, || Outcome::Expired(onward)) {
            (Offer::Taken, true) => Offer::Again(next),
            (offer, _) => offer,
        }
    }

    /// Also says whether the response is that the login page has expired.
    fn take(&self, parameters: &str, expired: impl FnOnce() -> Outcome) -> (Offer, bool) {
        let mut waiting = self.waiting();
        let (outcome, again) = match waiting.request.read_response(parameters) {
            Response::Stray(why) => return (Offer::Stray(why), false),
            Response::Code(code) => (Outcome::Code(code), false),
            Response::Denied => (Outcome::Denied, false),
            Response::Failed { code, message } => (Outcome::Failed { code, message }, false),
            Response::Expired => (expired(), true),
        };
        let Some(sender) = waiting.outcome.take() else { return (Offer::AlreadyUsed, false) };
        // The login may have ended meanwhile.
        let _ = sender.send(outcome);
        (Offer::Taken, again)
    }

    /// A whole address, as the browser shows it after the login; that browser can be sent nowhere.
    pub(crate) fn offer_url(&self, address: &str) -> Offer {
        let redirect = Url::parse(&self.waiting().request.redirect_uri);
        let (Ok(mut url), Ok(redirect)) = (Url::parse(address.trim()), redirect) else {
            return Offer::Stray("it is no address");
        };
        let parameters = url.query().unwrap_or_default().to_owned();
        url.set_query(None);
        url.set_fragment(None);
        if url == redirect {
            self.take(&parameters, Outcome::page_expired).0
        } else {
            Offer::Stray("it is not this login's redirect URI")
        }
    }

    pub(crate) fn request(&self) -> Arc<AuthorizationRequest> {
        Arc::clone(&self.waiting().request)
    }

    pub(crate) fn is_used(&self) -> bool {
        self.waiting().outcome.is_none()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
