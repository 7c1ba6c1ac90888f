//! The store of accounts with `store = "memory"`: gone with the process, never locked.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::{Item, ItemKind, Loaded, Store, StoreError};
use crate::account::AccountName;

/// Secrets in memory.
pub struct MemoryStore {
    accounts: Mutex<HashMap<AccountName, Loaded>>,
    changes: watch::Sender<u64>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { accounts: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Store for MemoryStore {
    async fn load(&self, account: &AccountName) -> Result<Loaded, StoreError> {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(accounts.get(account).cloned().unwrap_or_default())
    }

    async fn save(&self, account: &AccountName, item: Item) -> Result<(), StoreError> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = accounts.entry(account.clone()).or_default();
        match item {
            Item::Session(record) => entry.session = Some(record),
            Item::ClientSecret(secret) => entry.client_secret = Some(secret),
            Item::PersonalToken(token) => entry.personal_token = Some(token),
        }
        Ok(())
    }

    async fn erase(&self, account: &AccountName, kind: ItemKind) -> Result<(), StoreError> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = accounts.get_mut(account) {
            match kind {
                ItemKind::Session => entry.session = None,
                ItemKind::ClientSecret => entry.client_secret = None,
                ItemKind::PersonalToken => entry.personal_token = None,
            }
        }
        Ok(())
    }

    async fn unlock(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}
