//! What the tests start: buses and services, each private to its test.

pub(crate) mod keyring;
