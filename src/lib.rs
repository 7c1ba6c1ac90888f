//! bearerd
pub mod account;
pub mod clock;
pub mod config;
pub mod oidc;
pub mod secret;
pub mod store;
pub mod tokens;
