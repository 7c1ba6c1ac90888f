//! The first steps of a login, which need the provider: where the user has to go.

use std::sync::Arc;
use std::time::Duration;

use super::error::Error;
use super::handle::SessionHandle;
use super::text;
use crate::clock::{BootTime, Clock};
use crate::config::{OAuthConfig, RedirectUri};
use crate::dpop::ProofKey;
use crate::login::loopback::Listener;
use crate::login::{Flow, LoginOptions};
use crate::oidc::Provider;
use crate::oidc::authorization::{AuthorizationRequest, Front, Push};
use crate::oidc::device::DeviceAuthorization;
use crate::oidc::error::{Class, ProviderError};
use crate::secret::ClientSecret;

/// How long all of it may take; within the callers' 15 seconds.
const TIMEOUT: Duration = Duration::from_secs(12);
/// How much of that the keyring may take.
const UNLOCK_WAIT: Duration = Duration::from_secs(9);

/// Where the user has to go.
pub(super) enum Begun {
    Browser {
        authorized: Authorized,
        /// `None`: the last address is pasted.
        listener: Option<Listener>,
    },
    Device {
        authorization: Box<DeviceAuthorization>,
        secret: Option<ClientSecret>,
    },
    /// The pending login has a fresh address.
    Again {
        url: String,
        until: Option<BootTime>,
    },
}

/// A request and where it is answered.
pub(crate) struct Authorized {
    pub(crate) request: Arc<AuthorizationRequest>,
    pub(crate) url: String,
    /// Until when the address can be opened.
    pub(crate) until: Option<BootTime>,
}

pub(crate) struct Begin<P> {
    pub(crate) config: Arc<OAuthConfig>,
    pub(crate) provider: Arc<P>,
    pub(crate) session: SessionHandle,
    pub(crate) clock: Clock,
}

impl<P: Provider> Begin<P> {
    pub(super) async fn begin(&self, options: &LoginOptions) -> Result<Begun, Error> {
        self.in_time(async {
            if options.flow == Flow::Device { self.device().await } else { self.browser(options).await }
        })
        .await
    }

    /// Pushes the request of a pending login once more: each reference is for one visit, within its time.
    pub(super) async fn push_again(&self, request: &AuthorizationRequest) -> Result<Begun, Error> {
        self.in_time(async {
            let secret = self.secret().await?;
            let (url, until) = self.push(request, secret).await?;
            Ok(Begun::Again { url, until })
        })
        .await
    }

    /// Another request for the same redirect URI, with nothing of the one before.
    pub(crate) async fn again(
        &self,
        redirect_uri: &str,
        options: &LoginOptions,
    ) -> Result<Authorized, Error> {
        self.in_time(async {
            let front = self.provider.front().await.map_err(|error| self.not_started(&error))?;
            self.authorize(front, redirect_uri.to_owned(), options).await
        })
        .await
    }

    async fn in_time<T>(&self, steps: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let late = || Err(self.not_started(&ProviderError::new(Class::Unreachable, "no answer in time")));
        self.clock.within(TIMEOUT, steps).await.unwrap_or_else(late)
    }

    async fn browser(&self, options: &LoginOptions) -> Result<Begun, Error> {
        let account = self.session.account().as_str();
        let failed = |why: &str| Error::LoginFailed(text::login_not_started(account, why));
        let front = self.provider.front().await.map_err(|error| self.not_started(&error))?;
        let (listener, redirect_uri) = match &self.config.redirect {
            RedirectUri::Loopback(loopback) => {
                let listener =
                    Listener::bind(loopback).map_err(|error| failed(&text::no_listener(loopback, &error)))?;
                let redirect_uri = listener.redirect_uri();
                (Some(listener), redirect_uri)
            }
            RedirectUri::Elsewhere(url) if options.flow == Flow::Paste => (None, url.to_string()),
            RedirectUri::Elsewhere(_) => return Err(Error::InvalidOption(text::only_paste(account))),
        };
        let authorized = self.authorize(front, redirect_uri, options).await?;
        Ok(Begun::Browser { authorized, listener })
    }

    async fn authorize(
        &self,
        front: Front,
        redirect_uri: String,
        options: &LoginOptions,
    ) -> Result<Authorized, Error> {
        let account = self.session.account().as_str();
        let failed = |why: &str| Error::LoginFailed(text::login_not_started(account, why));
        let push = front.push;
        let key = self.config.dpop.then(ProofKey::generate).transpose();
        let key = key.map_err(|error| failed(&error.to_string()))?;
        let request =
            AuthorizationRequest::new(&self.config, front, redirect_uri, options.prompt.as_deref(), key)
                .map_err(|error| failed(&error.to_string()))?;
        let secret = match push {
            Push::No => None,
            Push::Required => Some(self.secret().await?),
            // The browser need not wait for the keyring: the exchange does.
            Push::Offered => match self.session.login_secret().await {
                Ok(secret) => Some(secret),
                Err(Error::StoreLocked(_) | Error::StoreUnavailable(_)) => None,
                Err(error) => return Err(error),
            },
        };
        let (url, until) = match secret {
            Some(secret) => self.push(&request, secret).await?,
            None => (request.url().into(), None),
        };
        Ok(Authorized { request: Arc::new(request), url, until })
    }

    async fn push(
        &self,
        request: &AuthorizationRequest,
        secret: Option<ClientSecret>,
    ) -> Result<(String, Option<BootTime>), Error> {
        let now = self.clock.now();
        let pushed = match self.provider.push(request, secret).await {
            Ok(pushed) => pushed,
            Err(error) => return Err(self.turned_away(error).await),
        };
        Ok((request.pushed_url(&pushed.request_uri).into(), Some(now.boot.after(pushed.life))))
    }

    async fn device(&self) -> Result<Begun, Error> {
        let secret = self.secret().await?;
        match self.provider.authorize_device(secret.clone()).await {
            Ok(Some(authorization)) => Ok(Begun::Device { authorization: Box::new(authorization), secret }),
            Ok(None) => Err(Error::InvalidOption(text::no_device_login(self.session.account().as_str()))),
            Err(error) => Err(self.turned_away(error).await),
        }
    }

    async fn secret(&self) -> Result<Option<ClientSecret>, Error> {
        self.session.login_secret_within(UNLOCK_WAIT, &self.clock).await
    }

    /// The client itself has asked for something, and the provider did not give it.
    async fn turned_away(&self, error: ProviderError) -> Error {
        let told = self.not_started(&error);
        self.session.login_failed(error).await;
        told
    }

    fn not_started(&self, error: &ProviderError) -> Error {
        let text = text::login_not_started(self.session.account().as_str(), &error.message);
        match error.class {
            Class::Unreachable => Error::ProviderUnreachable(text),
            Class::Refused => Error::ProviderRefused(text),
            _ => Error::LoginFailed(text),
        }
    }
}
