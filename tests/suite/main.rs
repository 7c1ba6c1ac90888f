//! The one integration test binary.

mod cli;
mod contract;
mod lifecycle;
mod login;
mod refresh;
mod store;
mod support;
