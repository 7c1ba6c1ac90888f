//! What the tests start: buses and services, each private to its test.

pub(crate) mod browser;
pub(crate) mod desk;
pub(crate) mod desktop;
pub(crate) mod keyring;
pub(crate) mod reference;
pub(crate) mod terminal;
pub(crate) mod trap;
