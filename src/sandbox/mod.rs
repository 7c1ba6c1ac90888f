//! What the tour and the tests run against: an OAuth provider of our own, shaped like the first real one.
//!
//! Part of the `sandbox` feature, which packages leave out of the daemon.

pub mod provider;
