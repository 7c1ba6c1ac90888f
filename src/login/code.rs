//! The code flow from the callback to a saved session (RFC 6749 section 4.1).

use std::sync::Arc;
use std::time::Duration;

use super::gate::Outcome;
use super::loopback::Callback;
use super::page::Page;
use super::{Attempt, LIFETIME, LoginState};
use crate::clock::Clock;
use crate::oidc::authorization::AuthorizationRequest;
use crate::oidc::{CodeExchange, Provider};
use crate::session::error::Error;
use crate::session::{Asked, SessionHandle};

/// How long a login waits for a locked keyring that holds the client secret.
const UNLOCK_WAIT: Duration = Duration::from_secs(120);

/// Drives `attempt` to its end: success, denial, failure, cancellation or expiry.
pub(crate) async fn run<P: Provider>(
    attempt: Arc<Attempt>,
    request: Arc<AuthorizationRequest>,
    callback: Callback,
    provider: Arc<P>,
    session: SessionHandle,
    clock: Clock,
) {
    let started = clock.now();
    let steps = log_in(&request, callback, provider.as_ref(), &session, &clock);
    let conclusion = tokio::select! {
        biased;
        conclusion = steps => conclusion,
        () = attempt.cancelled() => Conclusion::new(LoginState::Cancelled, "cancelled", "the login was cancelled".into()),
        () = clock.sleep_until(started.boot.after(LIFETIME)) => Conclusion::new(
            LoginState::Expired,
            "timeout",
            format!(
                "no answer came within 10 minutes; if the browser showed an error, register {} as a redirect URI at the provider",
                request.redirect_uri
            ),
        ),
    };
    let account = &attempt.account;
    let message = match conclusion.state {
        LoginState::Succeeded | LoginState::Pending => conclusion.message,
        _ => format!("{}; run: bearerctl login {account}", conclusion.message),
    };
    attempt.end(conclusion.state, conclusion.error, message);
    if let Some((callback, page)) = conclusion.page {
        callback.finish(page, &clock).await;
    }
}

struct Conclusion {
    state: LoginState,
    error: &'static str,
    message: String,
    page: Option<(Callback, Page)>,
}

impl Conclusion {
    fn new(state: LoginState, error: &'static str, message: String) -> Self {
        Self { state, error, message, page: None }
    }

    fn failed(callback: Callback, error: &'static str, message: String) -> Self {
        let page = Some((callback, Page::Failed(message.clone())));
        Self { state: LoginState::Failed, error, message, page }
    }
}

async fn log_in<P: Provider>(
    request: &AuthorizationRequest,
    mut callback: Callback,
    provider: &P,
    session: &SessionHandle,
    clock: &Clock,
) -> Conclusion {
    let code = match callback.outcome().await {
        Outcome::Code(code) => code,
        Outcome::Denied => {
            let message = "the login was denied at the provider".to_owned();
            let page = Some((callback, Page::Denied));
            return Conclusion { state: LoginState::Denied, error: "access_denied", message, page };
        }
        Outcome::Failed { code, message } => {
            let message = format!("the provider refused the login ({message})");
            tracing::warn!(code, "the provider refused the login");
            return Conclusion::failed(callback, "provider-error", message);
        }
        Outcome::Broken => {
            return Conclusion::failed(callback, "listener-failed", "the callback listener failed".into());
        }
    };
    let secret = match session.login_secret_within(UNLOCK_WAIT, clock).await {
        Ok(secret) => secret,
        Err(error) => return Conclusion::failed(callback, "no-client-secret", error.to_string()),
    };
    let exchange = CodeExchange {
        code,
        verifier: request.verifier.clone(),
        redirect_uri: request.redirect_uri.clone(),
        nonce: request.nonce.clone(),
    };
    let asked = Asked::at(&clock.now());
    let granted = match provider.exchange(exchange, secret).await {
        Ok(granted) => granted,
        Err(error) => {
            tracing::warn!(class = ?error.class, "the code was not exchanged");
            let message = format!("the login did not succeed: {}", error.message);
            session.login_failed(error).await;
            return Conclusion::failed(callback, "exchange-failed", message);
        }
    };
    let account = session.account().to_string();
    let subject = granted.subject.clone();
    let lasting = granted.tokens.refresh_token.is_some();
    let (message, page) = match session.logged_in(granted, asked).await {
        Ok(_) if !lasting => {
            let message = "logged in until the access token ends: the provider gave no refresh token; many give one for \
                           the scope offline_access, or for access_type = \"offline\" in extra_params";
            (message.to_owned(), Page::LoggedIn { account, subject })
        }
        Ok(true) => (String::new(), Page::LoggedIn { account, subject }),
        Ok(false) => {
            let why = session.view().message.clone();
            (format!("logged in, not saved: {why}"), Page::NotSaved { account, subject, why })
        }
        Err(Error::LoginFailed(why)) => return Conclusion::failed(callback, "another-user", why),
        Err(error) => return Conclusion::failed(callback, "stopped", error.to_string()),
    };
    Conclusion { state: LoginState::Succeeded, error: "", message, page: Some((callback, page)) }
}
