//! The live session of each account: a pure state machine, and the task that owns it.
//!
//! [`SessionHandle`] is the only door. Nothing outside sees an effect or a request id.

mod actor;
#[cfg(test)]
mod actor_tests;
mod begin;
mod budget;
mod effects;
pub mod error;
mod events;
mod handle;
mod interruptions;
mod live;
mod login;
mod narrow;
mod need;
mod schedule;
mod settle;
mod state;
mod stored;
#[cfg(test)]
mod tests;
mod text;
mod view;
mod warm;

pub(crate) use begin::Begin;
pub(crate) use schedule::Bucket;
pub(crate) use text::nobody_came;

pub use actor::{Parts, prepare, spawn, system_dice};
pub use budget::Budget;
pub use events::CALLER_BUDGET;
pub use handle::{Interruption, Published, SessionHandle, StartedLogin};
pub use live::Asked;
pub use need::Need;
pub use state::{Heirloom, Policy, TokenOptions, TokenReply};
pub use view::{AccountState, View};
