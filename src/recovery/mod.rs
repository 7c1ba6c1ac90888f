//! What one process leaves to the next, should it be cut off: notes of refreshes under way, and the
//! sessions that no keyring has yet.
//!
//! **Invariant:** a note holds no secret. The unsaved sessions are in memory only, ours and the service
//! manager's, and nothing of them is left once they are saved.

mod lock;
mod notes;
mod vault;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

pub use lock::Lock;
pub use notes::{Note, fingerprint};
pub use vault::{Unsaved, Vault};

use crate::account::AccountName;
use notes::Notes;

/// A note on its way to the disk.
pub type Noting<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Where a session leaves what its successor must know. Two exist: the real one and the simulation's.
pub trait Recovery: Send + Sync {
    /// Writes a note over the last one; one with a lower `sequence` than the last comes too late.
    fn note<'a>(&'a self, account: &'a AccountName, sequence: u64, note: &'a Note) -> Noting<'a>;

    /// Keeps what is to be saved, over what was kept before. Does not wait.
    fn hold(&self, account: &AccountName, unsaved: Unsaved);

    /// It is saved up to this sequence number: nothing of it is kept any longer.
    fn release(&self, account: &AccountName, sequence: u64);
}

/// What the last process left for one account.
#[derive(Clone, Default)]
pub struct Recalled {
    pub note: Option<Note>,
    pub unsaved: Option<Unsaved>,
}

/// Notes in files below the user's state folder, unsaved sessions in the service manager's keeping.
pub struct Records {
    notes: Notes,
    vault: Vault,
    /// What the last process left unsaved, until its account asks.
    left: Mutex<HashMap<AccountName, Unsaved>>,
}

impl Records {
    /// `folder` is made when the first note is written; `vault` is the last process's, or an empty one.
    #[must_use]
    pub fn new(folder: PathBuf, vault: Vault) -> Self {
        let left = vault.contents();
        if !left.is_empty() {
            tracing::warn!(accounts = left.len(), "the last bearerd ended with unsaved sessions; they go on");
        }
        Self { notes: Notes::new(folder), vault, left: Mutex::new(left) }
    }

    /// What the last process left for the account; what was unsaved is given out once.
    #[must_use]
    pub fn recall(&self, account: &AccountName) -> Recalled {
        let unsaved = self.left.lock().unwrap_or_else(PoisonError::into_inner).remove(account);
        Recalled { note: self.notes.read(account), unsaved }
    }
}

impl Recovery for Records {
    fn note<'a>(&'a self, account: &'a AccountName, sequence: u64, note: &'a Note) -> Noting<'a> {
        Box::pin(self.notes.write(account, sequence, note))
    }

    fn hold(&self, account: &AccountName, unsaved: Unsaved) {
        self.vault.hold(account, unsaved);
    }

    fn release(&self, account: &AccountName, sequence: u64) {
        self.vault.release(account, sequence);
    }
}
