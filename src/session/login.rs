//! Starting a login: one attempt per account, for everybody who asks meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::actor::{Actor, Completion};
use super::error::Error;
use super::handle::StartedLogin;
use super::text;
use crate::clock::Now;
use crate::config::RedirectUri;
use crate::login::gate::Gate;
use crate::login::loopback::{Callback, Listener};
use crate::login::{Attempt, Flow, LIFETIME, LoginOptions, code};
use crate::oidc::Provider;
use crate::oidc::authorization::{AuthorizationRequest, Front};
use crate::oidc::error::{Class, ProviderError};
use crate::store::Store;

/// How long the provider may take to say where a login goes; within the callers' 15 seconds.
const FRONT_TIMEOUT: Duration = Duration::from_secs(12);

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
        if let Some(attempt) = self.login.as_ref().filter(|attempt| attempt.is_pending()) {
            let same = attempt.options == options;
            let joined = StartedLogin { attempt: Arc::clone(attempt), joined: true };
            let _ = reply.send(if same { Ok(joined) } else { other });
            return;
        }
        if let Some(starting) = &mut self.starting {
            if starting.options == options {
                starting.waiting.push(reply);
            } else {
                let _ = reply.send(other);
            }
            return;
        }
        let Some((_, provider)) = &self.oauth else {
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
        let (provider, clock) = (Arc::clone(provider), self.clock.clone());
        self.tasks.spawn(async move {
            let front = tokio::select! {
                front = provider.front() => front,
                () = clock.sleep(FRONT_TIMEOUT) => {
                    Err(ProviderError::new(Class::Unreachable, "no answer in time"))
                }
            };
            Completion::Front(front)
        });
        self.starting = Some(Starting { options, waiting: vec![reply] });
    }

    /// The provider has said where a login goes, or could not.
    pub(super) fn front_known(&mut self, front: Result<Front, ProviderError>, now: &Now) {
        let Some(Starting { options, waiting }) = self.starting.take() else { return };
        let account = self.account.as_str();
        let attempt = match front {
            Ok(front) => self.start(front, options, now),
            Err(error) if error.class == Class::Unreachable => {
                Err(Error::ProviderUnreachable(text::login_not_started(account, &error.message)))
            }
            Err(error) => Err(Error::LoginFailed(text::login_not_started(account, &error.message))),
        };
        // The attempt is announced before anybody is told of it.
        self.publish();
        let mut joined = false;
        for reply in waiting {
            let started = attempt.clone().map(|attempt| StartedLogin { attempt, joined });
            let _ = reply.send(started);
            joined = true;
        }
    }

    fn start(&mut self, front: Front, options: LoginOptions, now: &Now) -> Result<Arc<Attempt>, Error> {
        let account = self.account.as_str();
        let failed = |why: String| Error::LoginFailed(text::login_not_started(account, &why));
        let random = |error: getrandom::Error| failed(error.to_string());
        let Some((config, provider)) = &self.oauth else {
            return Err(Error::InvalidArgument(text::personal_has_no_login(account)));
        };
        let (listener, redirect_uri) = match &config.redirect {
            RedirectUri::Loopback(loopback) => {
                let listener =
                    Listener::bind(loopback).map_err(|error| failed(text::no_listener(loopback, &error)))?;
                let redirect_uri = listener.redirect_uri();
                (Some(listener), redirect_uri)
            }
            RedirectUri::Elsewhere(url) if options.flow == Flow::Paste => (None, url.to_string()),
            RedirectUri::Elsewhere(_) => {
                return Err(Error::InvalidOption(text::only_paste(account)));
            }
        };
        let request = AuthorizationRequest::new(config, front, redirect_uri, options.prompt.as_deref());
        let request = Arc::new(request.map_err(random)?);
        let (gate, outcome) = Gate::new(Arc::clone(&request));
        let expires = now.wall_seconds_at(now.boot.after(LIFETIME));
        let url = request.url.to_string();
        let attempt = Attempt::new(self.account.clone(), url, expires, options, Arc::clone(&gate));
        let attempt = Arc::new(attempt.map_err(random)?);
        let callback = match listener {
            Some(listener) => listener.serve(gate, outcome, config.response_mode),
            None => Callback::pasted(outcome),
        };
        tracing::info!(account, "login started");
        self.login = Some(Arc::clone(&attempt));
        let drive = code::run(
            Arc::clone(&attempt),
            request,
            callback,
            Arc::clone(provider),
            self.handle.clone(),
            self.clock.clone(),
        );
        let over = Arc::clone(&attempt);
        self.tasks.spawn(async move {
            over.ended().await;
            Completion::LoginOver
        });
        self.tasks.spawn(async move {
            drive.await;
            Completion::Nothing
        });
        Ok(attempt)
    }
}
