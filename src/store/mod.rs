//! Where secrets rest: one item per account and kind, in the Secret Service or in memory.
//!
//! **Invariant:** nothing outside this module knows the record format. Every call ends within
//! [`CALL_TIMEOUT`]; a prompt is shown only by [`Store::unlock`] and by the first save of an item,
//! which both follow from a user's own act, and by [`Store::erase`] where the keyring insists.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;

use crate::account::AccountName;
use crate::secret::{ClientSecret, PersonalToken};

mod keyring;
pub mod memory;
mod record;
pub mod secret_service;

pub use record::{SessionRecord, UnreadableRecord};

/// The longest that one call to the store takes, prompts apart.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// One kind of secret that an account can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemKind {
    Session,
    ClientSecret,
    PersonalToken,
}

impl ItemKind {
    pub(crate) const ALL: [Self; 3] = [Self::Session, Self::ClientSecret, Self::PersonalToken];

    /// The item's `xdg:schema` attribute.
    #[must_use]
    pub fn schema(self) -> &'static str {
        match self {
            Self::Session => "org.bearerd.Session",
            Self::ClientSecret => "org.bearerd.ClientSecret",
            Self::PersonalToken => "org.bearerd.PersonalToken",
        }
    }
}

/// A secret on its way into the store.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "one lives for a call, and mostly it is the largest")]
pub enum Item {
    Session(SessionRecord),
    ClientSecret(ClientSecret),
    PersonalToken(PersonalToken),
}

impl Item {
    #[must_use]
    pub fn kind(&self) -> ItemKind {
        match self {
            Self::Session(_) => ItemKind::Session,
            Self::ClientSecret(_) => ItemKind::ClientSecret,
            Self::PersonalToken(_) => ItemKind::PersonalToken,
        }
    }
}

/// Everything the store has for one account.
#[derive(Clone, Default)]
pub struct Loaded {
    pub session: Option<SessionRecord>,
    pub client_secret: Option<ClientSecret>,
    pub personal_token: Option<PersonalToken>,
}

/// Why the store could not do what it was asked. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It is there and locked.
    #[error("the keyring is locked")]
    Locked,
    /// No service, no answer, or no place to store: the text says which.
    #[error("{0}")]
    Unavailable(String),
}

/// A place for secrets. Two exist: the Secret Service and memory.
pub trait Store: Send + Sync + 'static {
    /// Reads all that is stored for the account. Never prompts.
    fn load(&self, account: &AccountName) -> impl Future<Output = Result<Loaded, StoreError>> + Send;

    /// Writes one item, in place if it exists already.
    fn save(&self, account: &AccountName, item: Item) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Removes one item; removing what is not there succeeds.
    fn erase(
        &self,
        account: &AccountName,
        kind: ItemKind,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Shows the store's own prompt if it is locked and waits for its end, at most two minutes.
    fn unlock(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// A counter that moves whenever the store may have become available, locked or absent.
    fn changes(&self) -> watch::Receiver<u64>;

    /// What the `Store` property says: `secret-service` or `memory`.
    fn name(&self) -> &'static str;
}
