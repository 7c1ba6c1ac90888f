//! What the token endpoint granted, with times still relative to the request.

use std::time::Duration;

use crate::secret::{AccessToken, IdToken, RefreshToken};

/// A lifetime as the provider stated it, made safe to calculate with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Not stated, or not understood. Not forever, and not over.
    Unknown,
    /// Zero (for an access token) or negative: over already.
    Over,
    /// A positive time, at most one year.
    For(Duration),
}

impl Lifetime {
    /// The stated time; `None` when unknown, zero when over.
    #[must_use]
    pub fn known(self) -> Option<Duration> {
        match self {
            Self::Unknown => None,
            Self::Over => Some(Duration::ZERO),
            Self::For(time) => Some(time),
        }
    }
}

/// A successful answer of the token endpoint (RFC 6749 section 5.1), checked.
#[derive(Clone)]
pub struct TokenResponse {
    pub access_token: AccessToken,
    pub expires_in: Lifetime,
    /// Absent when the provider keeps the old one (RFC 6749 section 6).
    pub refresh_token: Option<RefreshToken>,
    /// Keycloak's `refresh_expires_in`, or `refresh_token_expires_in` of others.
    pub refresh_expires_in: Lifetime,
    /// Space separated; absent means as requested (RFC 6749 section 5.1).
    pub scope: Option<String>,
    /// Not checked yet.
    pub id_token: Option<IdToken>,
}

/// A login's tokens, and whose they are.
#[derive(Clone)]
pub struct Granted {
    pub tokens: TokenResponse,
    /// The issuer's identifier of the user (OpenID Connect Core section 2); empty without an ID token.
    pub sub: String,
    /// For people; empty when the provider does not say.
    pub subject: String,
}
