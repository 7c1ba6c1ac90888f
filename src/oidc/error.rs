//! Why a call to the provider failed, sorted by what has to happen next.

use std::time::Duration;

use crate::secret::RefreshToken;

/// What a failed call means for the session. See the table test in `oidc::classify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The request did not arrive, or the provider asked to come back later: back off.
    Unreachable,
    /// The request may have been acted on, and no usable answer came: the refresh token may be spent.
    Ambiguous,
    /// The provider says that the grant is over (`invalid_grant` and its kin).
    SessionOver,
    /// The provider refuses the client or the request itself: a matter of configuration.
    Refused,
    /// The provider is not where the session came from, so nothing was sent.
    Elsewhere,
    /// Something answered, and it was no OAuth answer (a captive portal, broken JSON): transient.
    Malformed,
}

impl Class {
    /// Whether neither time nor another network mends it: the configuration is wrong, or a login is needed.
    pub(crate) fn needs_a_person(self) -> bool {
        matches!(self, Self::Refused | Self::Elsewhere)
    }
}

/// A failed call to the provider. Holds no secret, except a refresh token worth saving.
#[derive(Clone, thiserror::Error)]
#[error("{message}")]
pub struct ProviderError {
    pub class: Class,
    /// One sentence for people: lower case, bounded, without control characters.
    pub message: String,
    /// The OAuth `error` code (RFC 6749 section 5.2), bounded and cleaned.
    pub code: Option<String>,
    /// The earliest time for another try (RFC 9110 section 10.2.3), 1 s to 1 h.
    pub retry_after: Option<Duration>,
    /// A rotated refresh token found in an answer that was otherwise unusable: keep it.
    pub salvaged: Option<RefreshToken>,
}

impl ProviderError {
    #[must_use]
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), code: None, retry_after: None, salvaged: None }
    }
}

// `unwrap` in tests wants it; the salvaged token stays out of it.
impl std::fmt::Debug for ProviderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProviderError")
            .field("class", &self.class)
            .field("message", &self.message)
            .field("code", &self.code)
            .field("retry_after", &self.retry_after)
            .finish_non_exhaustive()
    }
}
