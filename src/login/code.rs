//! The code flow from the callback to a saved session (RFC 6749 section 4.1).

use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::time::Duration;

use super::gate::{Gate, Outcome};
use super::loopback::Callback;
use super::page::Page;
use super::{Attempt, LoginState};
use crate::oidc::{CodeExchange, Provider};
use crate::secret::{AuthorizationCode, ClientSecret};
use crate::session::error::Error;
use crate::session::{Asked, Begin, nobody_came};

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
    let timeout = begin.config.login_timeout;
    let ends = clock.now().boot.after(timeout);
    let answered = tokio::select! {
        biased;
        answered = answer(&attempt, &gate, callback, &begin) => answered,
        () = attempt.cancelled() => Break(Conclusion::cancelled()),
        () = clock.sleep_until(ends) => Break(Conclusion::new(
            LoginState::Expired,
            "timeout",
            nobody_came(timeout, &gate.request().redirect_uri),
        )),
    };
    // The time was the user's. What has been answered is brought to its end.
    let conclusion = match answered {
        Continue((callback, code)) => log_in(&attempt, &gate, callback, code, &begin).await,
        Break(conclusion) => conclusion,
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

    fn cancelled() -> Self {
        Self::new(LoginState::Cancelled, "cancelled", "the login was cancelled".into())
    }

    fn failed(callback: Callback, error: &'static str, message: String) -> Self {
        let page = Some((callback, Page::Failed(message.clone())));
        Self { state: LoginState::Failed, error, message, page }
    }
}

/// Waits for the code that the browser brings.
async fn answer<P: Provider>(
    attempt: &Attempt,
    gate: &Gate,
    mut callback: Callback,
    begin: &Begin<P>,
) -> ControlFlow<Conclusion, (Callback, AuthorizationCode)> {
    let mut outcome = callback.outcome().await;
    if let Outcome::Expired(onward) = outcome {
        tracing::info!("the provider's login page had expired; the login is started again");
        let authorized = match begin.again(&gate.request().redirect_uri, &attempt.options).await {
            Ok(authorized) => authorized,
            Err(error) => {
                return Break(Conclusion::failed(callback, "provider-error", error.to_string()));
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
    Break(match outcome {
        Outcome::Code(code) => return Continue((callback, code)),
        Outcome::Expired(_) | Outcome::Broken => {
            Conclusion::failed(callback, "listener-failed", "the callback listener failed".into())
        }
        Outcome::Denied => {
            let message = "the login was denied at the provider".to_owned();
            let page = Some((callback, Page::Denied));
            Conclusion { state: LoginState::Denied, error: "access_denied", message, page }
        }
        Outcome::Failed { code, message } => {
            let message = format!("the provider refused the login ({message})");
            tracing::warn!(code, "the provider refused the login");
            Conclusion::failed(callback, "provider-error", message)
        }
    })
}

/// Trades the code for a session. Only the user's keyring may be waited for in vain: once the code is sent, nothing
/// stops it, for a session that nobody keeps would stay open at the provider.
async fn log_in<P: Provider>(
    attempt: &Attempt,
    gate: &Gate,
    callback: Callback,
    code: AuthorizationCode,
    begin: &Begin<P>,
) -> Conclusion {
    let (session, clock) = (&begin.session, &begin.clock);
    let request = gate.request();
    let secret: Result<Option<ClientSecret>, Error> = tokio::select! {
        biased;
        secret = session.login_secret_within(UNLOCK_WAIT, clock) => secret,
        () = attempt.cancelled() => return Conclusion::cancelled(),
    };
    let secret = match secret {
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
