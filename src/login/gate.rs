//! Lets exactly one valid response of a login through, whoever brings it: the listener or a paste.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use url::Url;

use crate::oidc::authorization::{AuthorizationRequest, Response};
use crate::secret::AuthorizationCode;

/// What came back through the browser.
pub(crate) enum Outcome {
    Code(AuthorizationCode),
    Denied,
    Failed {
        code: String,
        message: String,
    },
    /// The listener itself broke.
    Broken,
}

/// What became of a response that was brought.
pub(crate) enum Offer {
    Taken,
    /// Nothing of this login, which goes on.
    Stray(&'static str),
    AlreadyUsed,
}

pub(crate) struct Gate {
    request: Arc<AuthorizationRequest>,
    outcome: Mutex<Option<oneshot::Sender<Outcome>>>,
}

impl Gate {
    pub(crate) fn new(request: Arc<AuthorizationRequest>) -> (Arc<Self>, oneshot::Receiver<Outcome>) {
        let (sender, outcome) = oneshot::channel();
        (Arc::new(Self { request, outcome: Mutex::new(Some(sender)) }), outcome)
    }

    /// The parameters of a response, form-encoded.
    pub(crate) fn offer(&self, parameters: &str) -> Offer {
        let outcome = match self.request.read_response(parameters) {
            Response::Stray(why) => return Offer::Stray(why),
            Response::Code(code) => Outcome::Code(code),
            Response::Denied => Outcome::Denied,
            Response::Failed { code, message } => Outcome::Failed { code, message },
        };
        let sender = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(sender) = sender else { return Offer::AlreadyUsed };
        // The login may have ended meanwhile.
        let _ = sender.send(outcome);
        Offer::Taken
    }

    /// A whole address, as the browser shows it after the login.
    pub(crate) fn offer_url(&self, address: &str) -> Offer {
        let (Ok(mut url), Ok(redirect)) =
            (Url::parse(address.trim()), Url::parse(&self.request.redirect_uri))
        else {
            return Offer::Stray("it is no address");
        };
        let parameters = url.query().unwrap_or_default().to_owned();
        url.set_query(None);
        url.set_fragment(None);
        if url == redirect {
            self.offer(&parameters)
        } else {
            Offer::Stray("it is not this login's redirect URI")
        }
    }

    pub(crate) fn request(&self) -> Arc<AuthorizationRequest> {
        Arc::clone(&self.request)
    }

    pub(crate) fn is_used(&self) -> bool {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }
}
