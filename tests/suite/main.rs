//! The one integration test binary.

mod add;
mod attacks;
mod attention;
mod callers;
mod cli;
mod client;
mod client_key;
mod contract;
mod direct;
mod documents;
mod dpop;
mod flows;
mod lifecycle;
mod login;
mod narrow;
mod oidc;
mod presets;
mod refresh;
mod sandbox;
mod security;
mod store;
mod support;
mod tls;
mod walk;
mod watch;
