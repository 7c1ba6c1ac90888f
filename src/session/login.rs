//! Starting a login: one attempt per account, for everybody who asks meanwhile.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::actor::{Actor, Completion};
use super::begin::{Authorized, Begin, Begun};
use super::error::Error;
use super::handle::StartedLogin;
use super::text;
use crate::clock::Now;
use crate::login::gate::Gate;
use crate::login::loopback::Callback;
use crate::login::{Attempt, AttemptView, LoginOptions, code, device};
use crate::oidc::Provider;
use crate::store::Store;

/// A login whose provider is being asked where it goes, and those who wait for it.
pub(super) struct Starting {
    options: LoginOptions,
    waiting: Vec<oneshot::Sender<Result<StartedLogin, Error>>>,
}

impl<P: Provider, S: Store> Actor<P, S> {
    /// Joins the pending login, or starts one.
    pub(super) fn log_in(
        &mut self,
        options: LoginOptions,
        reply: oneshot::Sender<Result<StartedLogin, Error>>,
    ) {
        let other = Err(Error::InvalidOption(text::other_login(self.account.as_str())));
        let pending = self.login.clone().filter(|attempt| attempt.is_pending());
        let stale = pending.as_ref().and_then(|attempt| attempt.stale_request(&self.clock.now()));
        if let Some(attempt) = &pending {
            if attempt.options != options {
                let _ = reply.send(other);
                return;
            }
            if stale.is_none() {
                let _ = reply.send(Ok(StartedLogin { attempt: Arc::clone(attempt), joined: true }));
                return;
            }
        }
        if let Some(starting) = &mut self.starting {
            if starting.options == options {
                starting.waiting.push(reply);
            } else {
                let _ = reply.send(other);
            }
            return;
        }
        let Some((config, provider)) = &self.oauth else {
            let text = text::personal_has_no_login(self.account.as_str());
            let _ = reply.send(Err(Error::InvalidArgument(text)));
            return;
        };
        match self.session.login_secret() {
            Err(error @ Error::NotConfigured(_)) => {
                let _ = reply.send(Err(error));
                return;
            }
            // A login is the user's own act, so the keyring may ask.
            Err(_) => {
                let store = Arc::clone(&self.store);
                self.tasks.spawn(async move {
                    let _ = store.unlock().await;
                    Completion::Nothing
                });
            }
            Ok(_) => {}
        }
        let begin = Begin {
            config: Arc::clone(config),
            provider: Arc::clone(provider),
            session: self.handle.clone(),
            clock: self.clock.clone(),
        };
        let wanted = options.clone();
        self.tasks.spawn(async move {
            Completion::Begun(match stale {
                Some(request) => begin.push_again(&request).await,
                None => begin.begin(&wanted).await,
            })
        });
        self.starting = Some(Starting { options, waiting: vec![reply] });
    }

    /// It is known where a login goes, or that it cannot go anywhere.
    pub(super) fn begun(&mut self, begun: Result<Begun, Error>, now: &Now) {
        let Some(Starting { options, waiting }) = self.starting.take() else { return };
        let mut joined = matches!(begun, Ok(Begun::Again { .. }));
        let attempt = begun.and_then(|begun| self.start(begun, options, now));
        // The attempt is announced before anybody is told of it.
        self.publish();
        for reply in waiting {
            let started = attempt.clone().map(|attempt| StartedLogin { attempt, joined });
            let _ = reply.send(started);
            joined = true;
        }
    }

    fn start(&mut self, begun: Begun, options: LoginOptions, now: &Now) -> Result<Arc<Attempt>, Error> {
        let name = self.account.clone();
        let account = name.as_str();
        let random = |error: getrandom::Error| {
            Error::LoginFailed(text::login_not_started(account, &error.to_string()))
        };
        let Some((config, provider)) = &self.oauth else {
            return Err(Error::InvalidArgument(text::personal_has_no_login(account)));
        };
        let (provider, session, clock) = (Arc::clone(provider), self.handle.clone(), self.clock.clone());
        let attempt = match begun {
            Begun::Again { url, until } => {
                let attempt = self.login.as_ref().filter(|attempt| attempt.is_pending());
                let ended =
                    || Error::LoginFailed(text::login_not_started(account, "the pending one has ended"));
                let attempt = attempt.ok_or_else(ended)?;
                attempt.renew_url(url, until);
                return Ok(Arc::clone(attempt));
            }
            Begun::Browser { authorized: Authorized { request, url, until }, listener } => {
                let (gate, outcome) = Gate::new(request);
                let view = AttemptView { url, url_until: until, ..AttemptView::default() };
                let expires = now.wall_seconds_at(now.boot.after(config.login_timeout));
                let gate_for_pastes = Some(Arc::clone(&gate));
                let attempt = Attempt::new(self.account.clone(), view, expires, options, gate_for_pastes);
                let attempt = Arc::new(attempt.map_err(random)?);
                let callback = match listener {
                    Some(listener) => listener.serve(Arc::clone(&gate), outcome, config.response_mode),
                    None => Callback::pasted(outcome),
                };
                let begin = Begin { config: Arc::clone(config), provider, session, clock };
                self.drive(code::run(Arc::clone(&attempt), gate, callback, begin));
                attempt
            }
            Begun::Device { authorization, secret } => {
                let expires = now.wall_seconds_at(now.boot.after(authorization.expires_in));
                let complete = authorization.verification_uri_complete.as_ref();
                let view = AttemptView {
                    url: complete.unwrap_or(&authorization.verification_uri).to_string(),
                    user_code: authorization.user_code.clone(),
                    verification_uri: authorization.verification_uri.to_string(),
                    verification_uri_complete: complete.map(ToString::to_string).unwrap_or_default(),
                    ..AttemptView::default()
                };
                let attempt = Attempt::new(self.account.clone(), view, expires, options, None);
                let attempt = Arc::new(attempt.map_err(random)?);
                let drive =
                    device::run(Arc::clone(&attempt), *authorization, secret, provider, session, clock);
                self.drive(drive);
                attempt
            }
        };
        tracing::info!(account, flow = attempt.options.flow.as_str(), "login started");
        self.login = Some(Arc::clone(&attempt));
        let over = Arc::clone(&attempt);
        self.tasks.spawn(async move {
            over.ended().await;
            Completion::LoginOver
        });
        Ok(attempt)
    }

    fn drive(&mut self, login: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            login.await;
            Completion::Nothing
        });
    }
}
