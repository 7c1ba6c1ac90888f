//! oidc
pub mod error;
