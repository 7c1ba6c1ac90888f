//! What a caller can be told, and do about it. The bus maps these one to one.

/// Why a request to an account failed: a sentence that ends with the next step, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    NotConfigured(String),
    #[error("{0}")]
    NoSession(String),
    #[error("{0}")]
    LoginRequired(String),
    #[error("{0}")]
    LoginFailed(String),
    #[error("{0}")]
    StoreLocked(String),
    #[error("{0}")]
    StoreUnavailable(String),
    #[error("{0}")]
    ProviderUnreachable(String),
    #[error("{0}")]
    ProviderRefused(String),
    #[error("{0}")]
    RateLimited(String),
    #[error("{0}")]
    Timeout(String),
    #[error("{0}")]
    InvalidArgument(String),
    #[error("{0}")]
    InvalidOption(String),
}
