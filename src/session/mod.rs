//! The live session of each account: a pure state machine, and the task that owns it.
//!
//! [`SessionHandle`] is the only door. Nothing outside sees an effect or a request id.

mod actor;
pub mod error;
mod live;
mod schedule;
mod settle;
mod state;
#[cfg(test)]
mod tests;
mod text;
mod view;

pub use actor::{Parts, Published, SessionHandle, StartedLogin, spawn, system_dice};
pub use live::Asked;
pub use state::{CALLER_BUDGET, Heirloom, Policy, TokenOptions, TokenReply};
pub use view::{AccountState, View};
