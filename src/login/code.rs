//! The code flow from the callback to a saved session (RFC 6749 section 4.1).

use std::sync::Arc;
use std::time::Duration;

use super::gate::{Gate, Outcome};
use super::loopback::Callback;
use super::page::Page;
use super::{Attempt, LIFETIME, LoginState};
use crate::oidc::{CodeExchange, Provider};
use crate::session::error::Error;
use crate::session::{Asked, Begin};

/// How long a login waits for a locked keyring that holds the client secret.
const UNLOCK_WAIT: Duration = Duration::from_secs(120);

/// Drives `attempt` to its end: success, denial, failure, cancellation or expiry.
pub(crate) async fn run<P: Provider>(
    attempt: Arc<Attempt>,
    gate: Arc<Gate>,
    callback: Callback,
    begin: Begin<P>,
) {
    let clock = &begin.clock;
    let started = clock.now();
    let steps = log_in(&attempt, &gate, callback, &begin);
    let conclusion = tokio::select! {
        biased;
        conclusion = steps => conclusion,
        () = attempt.cancelled() => Conclusion::new(LoginState::Cancelled, "cancelled", "the login was cancelled".into()),
        () = clock.sleep_until(started.boot.after(LIFETIME)) => Conclusion::new(
            LoginState::Expired,
            "timeout",
            format!(
                "no answer came within 10 minutes; if the browser showed an error, register {} as a redirect URI at the provider",
                gate.request().redirect_uri
            ),
        ),
    };
    let next_step = format!("run: bearerctl login {}", attempt.account);
    let message = match conclusion.state {
        LoginState::Succeeded | LoginState::Pending => conclusion.message,
        _ if conclusion.message.ends_with(&next_step) => conclusion.message,
        _ => format!("{}; {next_step}", conclusion.message),
    };
    attempt.end(conclusion.state, conclusion.error, message);
    if let Some((callback, page)) = conclusion.page {
        callback.finish(page, clock).await;
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
    attempt: &Attempt,
    gate: &Gate,
    mut callback: Callback,
    begin: &Begin<P>,
) -> Conclusion {
    let (session, clock) = (&begin.session, &begin.clock);
    let mut outcome = callback.outcome().await;
    if let Outcome::Expired(onward) = outcome {
        tracing::info!("the provider's login page had expired; the login is started again");
        let authorized = match begin.again(&gate.request().redirect_uri, &attempt.options).await {
            Ok(authorized) => authorized,
            Err(error) => {
                return Conclusion::failed(callback, "provider-error", error.to_string());
            }
        };
        callback.expect(gate.wait_for(authorized.request));
        attempt.renew_url(authorized.url.clone(), authorized.until);
        // A browser that has gone away meanwhile leaves the new address to whoever asks for it.
        let _ = onward.send(authorized.url);
        outcome = callback.outcome().await;
        if let Outcome::Expired(_) = outcome {
            outcome = Outcome::page_expired();
        }
    }
    let code = match outcome {
        Outcome::Code(code) => code,
        Outcome::Expired(_) | Outcome::Broken => {
            return Conclusion::failed(callback, "listener-failed", "the callback listener failed".into());
        }
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
    };
    let request = gate.request();
    let secret = match session.login_secret_within(UNLOCK_WAIT, clock).await {
        Ok(secret) => secret,
        Err(error) => return Conclusion::failed(callback, "no-client-secret", error.to_string()),
    };
    let exchange = CodeExchange {
        code,
        token_endpoint: request.token_endpoint.clone(),
        verifier: request.verifier.clone(),
        redirect_uri: request.redirect_uri.clone(),
        nonce: request.nonce.clone(),
        key: request.key.clone(),
    };
    let asked = Asked::at(&clock.now());
    let granted = match begin.provider.exchange(exchange, secret).await {
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
