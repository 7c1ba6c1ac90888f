//! The provider's side of a session: requests, answers, and what they mean.
//!
//! **Invariant:** knows no D-Bus, no store and no account names.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::dpop::ProofKey;
use crate::secret::{AccessToken, AuthorizationCode, ClientSecret, CodeVerifier, RefreshToken};
use crate::tokens::{Granted, Narrow, TokenResponse};
use authorization::{AuthorizationRequest, Front};
use device::{DeviceAuthorization, Polled};
use error::ProviderError;
use push::Pushed;

pub mod assertion;
pub mod authorization;
pub mod device;
pub mod discovery;
mod endpoints;
pub mod error;
mod hint;
pub mod http;
pub mod id_token;
mod provider;
pub mod push;
pub mod text;
pub mod token;

pub use provider::OAuthProvider;

/// A code and what proves that it is ours (RFC 6749 section 4.1.3, RFC 7636 section 4.5).
pub struct CodeExchange {
    pub code: AuthorizationCode,
    /// Where the request's provider takes it.
    pub token_endpoint: Url,
    pub verifier: Option<CodeVerifier>,
    /// Byte for byte what the authorization request had.
    pub redirect_uri: String,
    /// What the ID token must repeat; `None` when none was asked for.
    pub nonce: Option<String>,
    /// What the tokens shall be bound to (RFC 9449).
    pub key: Option<ProofKey>,
}

/// What a refresh is made of.
pub struct RefreshRequest {
    pub refresh_token: RefreshToken,
    pub stored_secret: Option<ClientSecret>,
    pub key: Option<ProofKey>,
    /// Whose session it is; empty when that is not known.
    pub sub: String,
    /// Where its tokens may be sent, as [`TokenResponse::servers`].
    pub servers: String,
    /// `None`: a token for all that the session may do.
    pub narrow: Option<Arc<Narrow>>,
    /// The narrower token is had in exchange for this one (RFC 8693); the refresh token stays unused.
    pub subject: Option<AccessToken>,
}

/// What is given up when a session ends.
#[derive(Clone)]
pub struct EndRequest {
    /// What lasts; it goes first.
    pub refresh_token: Option<RefreshToken>,
    /// What would live on for a while where the end of the other is not its end.
    pub access_token: Option<AccessToken>,
    pub stored_secret: Option<ClientSecret>,
    /// Where its tokens may be sent, as [`TokenResponse::servers`].
    pub servers: String,
}

/// A provider's back channel. Two exist: OAuth over HTTP, and the one of the simulations.
pub trait Provider: Send + Sync + 'static {
    /// Where a login goes; may have to be asked for first.
    fn front(&self) -> impl Future<Output = Result<Front, ProviderError>> + Send;

    /// Hands in an authorization request ahead of the browser (RFC 9126).
    fn push(
        &self,
        request: &AuthorizationRequest,
        stored_secret: Option<ClientSecret>,
    ) -> impl Future<Output = Result<Pushed, ProviderError>> + Send;

    /// Begins a login on another device (RFC 8628 section 3.1); `None` when the provider has none
    /// for this client.
    fn authorize_device(
        &self,
        stored_secret: Option<ClientSecret>,
    ) -> impl Future<Output = Result<Option<DeviceAuthorization>, ProviderError>> + Send;

    /// Asks once whether the user has answered there (section 3.4).
    fn poll_device(
        &self,
        authorization: &DeviceAuthorization,
        stored_secret: Option<ClientSecret>,
    ) -> impl Future<Output = Polled> + Send;

    /// Trades a code for tokens, and finds out whose they are; never repeated, whatever happens
    /// (RFC 6749 section 4.1.2).
    fn exchange(
        &self,
        exchange: CodeExchange,
        stored_secret: Option<ClientSecret>,
    ) -> impl Future<Output = Result<Granted, ProviderError>> + Send;

    /// Trades a refresh token for new tokens (RFC 6749 section 6), which must be the same user's.
    fn refresh(
        &self,
        request: RefreshRequest,
    ) -> impl Future<Output = Result<TokenResponse, ProviderError>> + Send;

    /// Ends the session at the provider.
    fn end_session(&self, request: EndRequest) -> impl Future<Output = End> + Send;
}

/// What became of the end of a session at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Done,
    /// The provider has no way to, or will not.
    Impossible,
    /// It still lives there: to be tried again after this (RFC 7009 section 2.2.1).
    Later(Duration),
}
