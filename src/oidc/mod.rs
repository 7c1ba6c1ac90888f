//! The provider's side of a session: requests, answers, and what they mean.
//!
//! **Invariant:** knows no D-Bus, no store and no account names.

use std::future::Future;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use crate::config::{ClientAuth, LogoutEndpoint, OAuthConfig, SecretSource};
use crate::secret::{AccessToken, AuthorizationCode, ClientSecret, CodeVerifier, RefreshToken};
use crate::tokens::TokenResponse;
use error::{Class, ProviderError};
use http::Http;

pub mod authorization;
pub mod error;
pub mod http;
pub mod text;
pub mod token;

/// A code and what proves that it is ours (RFC 6749 section 4.1.3, RFC 7636 section 4.5).
pub struct CodeExchange {
    pub code: AuthorizationCode,
    pub verifier: Option<CodeVerifier>,
    /// Byte for byte what the authorization request had.
    pub redirect_uri: String,
}

/// A provider's back channel. Two exist: OAuth over HTTP, and the one of the simulations.
pub trait Provider: Send + Sync + 'static {
    /// Trades a code for tokens; never repeated, whatever happens (RFC 6749 section 4.1.2).
    fn exchange(
        &self,
        exchange: CodeExchange,
        stored_secret: Option<ClientSecret>,
    ) -> impl Future<Output = Result<TokenResponse, ProviderError>> + Send;

    /// Trades a refresh token for new tokens (RFC 6749 section 6).
    fn refresh(
        &self,
        refresh_token: RefreshToken,
        stored_secret: Option<ClientSecret>,
    ) -> impl Future<Output = Result<TokenResponse, ProviderError>> + Send;

    /// Ends the session at the provider; `false` when it has no way to, or did not answer.
    fn end_session(
        &self,
        refresh_token: RefreshToken,
        stored_secret: Option<ClientSecret>,
    ) -> impl Future<Output = bool> + Send;

    /// Who is logged in, for people; empty when there is no way to know.
    fn subject(&self, access_token: AccessToken) -> impl Future<Output = String> + Send;
}

/// An OAuth provider over HTTP.
pub struct OAuthProvider {
    config: Arc<OAuthConfig>,
    http: Arc<Http>,
}

impl OAuthProvider {
    #[must_use]
    pub fn new(config: Arc<OAuthConfig>, http: Arc<Http>) -> Self {
        Self { config, http }
    }

    /// Posts to an endpoint with the client's authentication (RFC 6749 section 2.3.1): exactly one.
    async fn post(
        &self,
        endpoint: &Url,
        mut form: Vec<(&str, &str)>,
        stored_secret: Option<ClientSecret>,
        timeout: std::time::Duration,
    ) -> Result<token::HttpAnswer, ProviderError> {
        let secret = self.client_secret(stored_secret).await?;
        let client_id = self.config.client_id.as_str();
        let basic = match (self.config.client_auth, &secret) {
            (ClientAuth::Basic, Some(secret)) => Some(basic(client_id, secret.expose())),
            (ClientAuth::Post, Some(secret)) => {
                form.extend([("client_id", client_id), ("client_secret", secret.expose())]);
                None
            }
            (ClientAuth::None, _) | (_, None) => {
                form.push(("client_id", client_id));
                None
            }
        };
        self.http.post_form(endpoint, basic.as_ref().map(|basic| basic.as_str()), &form, timeout).await
    }

    async fn client_secret(
        &self,
        stored: Option<ClientSecret>,
    ) -> Result<Option<ClientSecret>, ProviderError> {
        if self.config.client_auth == ClientAuth::None {
            return Ok(None);
        }
        match &self.config.client_secret {
            SecretSource::Store => Ok(stored),
            SecretSource::Inline(secret) => Ok(Some(secret.clone())),
            SecretSource::File(path) => {
                let refused = |why: String| {
                    ProviderError::new(
                        Class::Refused,
                        format!("client_secret_file {}: {why}", path.display()),
                    )
                };
                let text =
                    tokio::fs::read_to_string(path).await.map_err(|error| refused(error.to_string()))?;
                let text = Zeroizing::new(text);
                ClientSecret::from_pasted(&text).map(Some).map_err(|error| refused(error.to_string()))
            }
        }
    }
}

impl Provider for OAuthProvider {
    async fn exchange(
        &self,
        exchange: CodeExchange,
        stored_secret: Option<ClientSecret>,
    ) -> Result<TokenResponse, ProviderError> {
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", exchange.code.expose()),
            ("redirect_uri", exchange.redirect_uri.as_str()),
        ];
        if let Some(verifier) = &exchange.verifier {
            form.push(("code_verifier", verifier.expose()));
        }
        let answer = self.post(&self.config.token_endpoint, form, stored_secret, http::CALL_TIMEOUT).await?;
        token::read_answer(&answer)
    }

    async fn refresh(
        &self,
        refresh_token: RefreshToken,
        stored_secret: Option<ClientSecret>,
    ) -> Result<TokenResponse, ProviderError> {
        let form = vec![("grant_type", "refresh_token"), ("refresh_token", refresh_token.expose())];
        let answer =
            self.post(&self.config.token_endpoint, form, stored_secret, http::REFRESH_TIMEOUT).await?;
        token::read_answer(&answer)
    }

    async fn end_session(&self, refresh_token: RefreshToken, stored_secret: Option<ClientSecret>) -> bool {
        let (endpoint, form) = match &self.config.logout {
            LogoutEndpoint::None => return false,
            LogoutEndpoint::Keycloak(url) => (url, vec![("refresh_token", refresh_token.expose())]),
            LogoutEndpoint::Revocation(url) => {
                (url, vec![("token", refresh_token.expose()), ("token_type_hint", "refresh_token")])
            }
        };
        match self.post(endpoint, form, stored_secret, http::CALL_TIMEOUT).await {
            Ok(answer) if (200..300).contains(&answer.status) => true,
            Ok(answer) => {
                tracing::warn!(status = answer.status, "the provider did not end the session");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "could not tell the provider to end the session");
                false
            }
        }
    }

    async fn subject(&self, access_token: AccessToken) -> String {
        let Some(profile) = &self.config.profile else { return String::new() };
        let answer = match self.http.get_with_bearer(&profile.url, access_token.expose()).await {
            Ok(answer) if answer.status == 200 => answer,
            Ok(answer) => {
                tracing::warn!(status = answer.status, "the profile could not be read");
                return String::new();
            }
            Err(error) => {
                tracing::warn!(%error, "the profile could not be read");
                return String::new();
            }
        };
        let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match document.pointer(&profile.name) {
            Some(serde_json::Value::String(name)) => text::clean(name),
            Some(serde_json::Value::Number(number)) => number.to_string(),
            _ => String::new(),
        }
    }
}

/// RFC 6749 section 2.3.1: both parts are form-encoded before they are joined and put into base64.
fn basic(client_id: &str, secret: &str) -> Zeroizing<String> {
    let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let joined = Zeroizing::new(format!("{}:{}", encode(client_id), encode(secret)));
    Zeroizing::new(format!("Basic {}", STANDARD.encode(joined.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// C3.
    #[test]
    fn basic_credentials_are_form_encoded_first() {
        assert_eq!(
            *basic("my app", "a+b%c:d é"),
            format!("Basic {}", STANDARD.encode("my+app:a%2Bb%25c%3Ad+%C3%A9"))
        );
    }
}
