//! Sessions whose save is pending, in a memfd that the service manager holds for the next process
//! (sd_pid_notify_with_fds(3), `FDSTORE=1`). Without a service manager it is an ordinary memfd and ends with us.
//!
//! Two slots are written in turn, each with its number and a checksum, so that a kill in the midst of
//! a write leaves the one before it.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};
use sd_notify::NotifyState;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::account::AccountName;
use crate::store::SessionRecord;

/// How the service manager calls it.
const NAME: &str = "unsaved";
/// Number, length and checksum.
const HEADER: usize = 8 + 8 + 32;
/// Where the second slot begins; what is not written takes no memory.
const SLOT: u64 = 16 << 20;

/// What a store has to be brought to.
#[derive(Clone)]
pub struct Unsaved {
    /// The stored session's number once it is saved.
    pub sequence: u64,
    /// `None`: the stored session is to be removed.
    pub record: Option<SessionRecord>,
}

/// The sessions that no store has yet.
pub struct Vault(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    file: Option<File>,
    writes: u64,
    unsaved: BTreeMap<AccountName, Unsaved>,
}

impl Vault {
    /// A new one, which nobody has heard of yet.
    #[must_use]
    pub fn empty() -> Self {
        Self(Mutex::default())
    }

    /// The last process's, if the service manager kept it.
    #[must_use]
    pub fn inherited() -> Self {
        let Ok(fds) = sd_notify::listen_fds_with_names() else { return Self::empty() };
        let ours = fds.filter(|(_, name)| name == NAME).map(|(fd, _)| fd).next();
        // A descriptor by number can't be owned without unsafe code; its file can be opened anew.
        let file = ours.map(|fd| File::options().read(true).write(true).open(format!("/proc/self/fd/{fd}")));
        match file {
            None => Self::empty(),
            Some(Ok(file)) => Self::from_file(file),
            Some(Err(error)) => {
                tracing::warn!(%error, "what the last bearerd left unsaved cannot be read");
                Self::empty()
            }
        }
    }

    fn from_file(file: File) -> Self {
        let newest =
            [0, SLOT].into_iter().filter_map(|at| read_slot(&file, at)).max_by_key(|(writes, _)| *writes);
        let (writes, text) = newest.unwrap_or_default();
        Self(Mutex::new(Inner { file: Some(file), writes, unsaved: parse(&text) }))
    }

    pub(super) fn contents(&self) -> HashMap<AccountName, Unsaved> {
        self.lock().unsaved.iter().map(|(account, unsaved)| (account.clone(), unsaved.clone())).collect()
    }

    pub(super) fn hold(&self, account: &AccountName, unsaved: Unsaved) {
        let mut inner = self.lock();
        inner.unsaved.insert(account.clone(), unsaved);
        if let Err(error) = inner.write() {
            tracing::warn!(%error, "an unsaved session could not be kept beside us; a crash before its save would lose it");
        }
    }

    pub(super) fn release(&self, account: &AccountName, sequence: u64) {
        let mut inner = self.lock();
        if inner.unsaved.get(account).is_none_or(|unsaved| unsaved.sequence > sequence) {
            return;
        }
        inner.unsaved.remove(account);
        if inner.unsaved.is_empty() {
            inner.close();
        } else if let Err(error) = inner.write() {
            tracing::warn!(%error, "the unsaved sessions could not be written anew");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self) -> io::Result<()> {
        let lines: Vec<_> = self
            .unsaved
            .iter()
            .map(|(account, unsaved)| {
                let record = unsaved.record.as_ref().map(SessionRecord::to_json);
                (format!("{} {} ", account.as_str(), unsaved.sequence), record)
            })
            .collect();
        let parts = || {
            lines.iter().flat_map(|(head, record)| {
                [head.as_str(), record.as_ref().map_or("-", |json| json.as_str()), "\n"]
            })
        };
        // In one piece: a buffer that grows leaves copies of records behind.
        let mut text = Zeroizing::new(String::with_capacity(parts().map(str::len).sum()));
        parts().for_each(|part| text.push_str(part));
        if HEADER + text.len() > usize::try_from(SLOT).unwrap_or(usize::MAX) {
            return Err(io::Error::other("too many of them"));
        }
        let new = self.file.is_none();
        if new {
            self.file = Some(File::from(memfd_create("bearerd-unsaved", MemfdFlags::CLOEXEC)?));
        }
        let Some(file) = &self.file else { return Ok(()) };
        self.writes += 1;
        let at = if self.writes.is_multiple_of(2) { 0 } else { SLOT };
        let mut slot = Zeroizing::new(Vec::with_capacity(HEADER + text.len()));
        slot.extend_from_slice(&self.writes.to_le_bytes());
        slot.extend_from_slice(&(text.len() as u64).to_le_bytes());
        slot.extend_from_slice(&checksum(self.writes, text.as_bytes()));
        slot.extend_from_slice(text.as_bytes());
        file.write_all_at(&slot, at)?;
        if new {
            sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(NAME)], &[file.as_fd()])?;
        }
        Ok(())
    }

    /// Gives it back, and its memory.
    fn close(&mut self) {
        let Some(file) = self.file.take() else { return };
        self.writes = 0;
        // Whoever still holds it finds nothing.
        if let Err(error) = file.set_len(0) {
            tracing::warn!(%error, "saved sessions could not be removed from memory");
        }
        crate::systemd::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(NAME)]);
    }
}

fn checksum(writes: u64, text: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(writes.to_le_bytes()).chain_update(text).finalize().into()
}

/// A slot's number and text; `None` when it is empty or was cut off.
fn read_slot(file: &File, at: u64) -> Option<(u64, Zeroizing<String>)> {
    let mut header = [0_u8; HEADER];
    file.read_exact_at(&mut header, at).ok()?;
    let number = |range: std::ops::Range<usize>| Some(u64::from_le_bytes(header[range].try_into().ok()?));
    let (writes, length) = (number(0..8)?, number(8..16)?);
    if length > SLOT {
        return None;
    }
    let mut text = Zeroizing::new(vec![0_u8; usize::try_from(length).ok()?]);
    file.read_exact_at(&mut text, at + HEADER as u64).ok()?;
    if checksum(writes, &text) != header[16..] {
        return None;
    }
    String::from_utf8(std::mem::take(&mut *text)).ok().map(|text| (writes, Zeroizing::new(text)))
}

fn parse(text: &str) -> BTreeMap<AccountName, Unsaved> {
    let read = |line: &str| {
        let mut parts = line.splitn(3, ' ');
        let account = AccountName::parse(parts.next()?).ok()?;
        let sequence = parts.next()?.parse().ok()?;
        let record = match parts.next()? {
            "-" => None,
            json => Some(SessionRecord::from_json(json).ok()?),
        };
        Some((account, Unsaved { sequence, record }))
    };
    text.lines().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::RefreshToken;

    fn name(text: &str) -> AccountName {
        AccountName::parse(text).unwrap()
    }

    fn unsaved(sequence: u64) -> Unsaved {
        let record = SessionRecord {
            refresh_token: RefreshToken::parse(format!("canary-r{sequence}")).unwrap(),
            issuer: "https://id.example".into(),
            client_id: "app".into(),
            servers: String::new(),
            scope: "a b".into(),
            subject: "Ayu Ä".into(),
            key: None,
            sub: String::new(),
            obtained_at: 1,
            obtained_boot: 1,
            boot_id: "b".into(),
            refresh_lifetime: 1800,
            machine: "m".into(),
            sequence,
        };
        Unsaved { sequence, record: Some(record) }
    }

    fn again(vault: &Vault) -> Vault {
        Vault::from_file(vault.lock().file.as_ref().unwrap().try_clone().unwrap())
    }

    fn held(vault: &Vault) -> Vec<(String, u64, bool)> {
        let inner = vault.lock();
        inner.unsaved.iter().map(|(name, it)| (name.to_string(), it.sequence, it.record.is_some())).collect()
    }

    /// D11.
    #[test]
    fn the_next_process_finds_what_was_unsaved_and_nothing_that_was_saved() {
        let vault = Vault::empty();
        vault.hold(&name("a"), unsaved(3));
        vault.hold(&name("b"), Unsaved { sequence: 9, record: None });
        vault.hold(&name("a"), unsaved(4));
        assert_eq!(held(&again(&vault)), [("a".into(), 4, true), ("b".into(), 9, false)]);

        vault.release(&name("a"), 3);
        vault.release(&name("b"), 9);
        assert_eq!(held(&again(&vault)), [("a".into(), 4, true)], "a newer one than the saved one stays");

        let file = vault.lock().file.as_ref().unwrap().try_clone().unwrap();
        vault.release(&name("a"), 4);
        assert_eq!(file.metadata().unwrap().len(), 0, "nothing of it is left in memory");
        assert!(vault.lock().file.is_none());
    }

    /// D11: a kill in the midst of a write.
    #[test]
    fn a_torn_write_leaves_the_one_before_it() {
        let vault = Vault::empty();
        vault.hold(&name("a"), unsaved(1));
        vault.hold(&name("a"), unsaved(2));
        let file = vault.lock().file.as_ref().unwrap().try_clone().unwrap();
        for (at, survivor) in [(HEADER as u64 + 20, 1), (4, 1)] {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            assert_eq!(held(&again(&vault)), [("a".into(), survivor, true)]);
            file.write_all_at(&byte, at).unwrap();
        }
        assert_eq!(held(&again(&vault)), [("a".into(), 2, true)]);
        file.set_len(7).unwrap();
        assert!(held(&again(&vault)).is_empty());
    }
}
