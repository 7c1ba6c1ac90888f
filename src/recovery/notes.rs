//! One small file per account: which refresh is under way, and how the last ones went.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use crate::account::AccountName;
use crate::secret::RefreshToken;

const DISK_TIMEOUT: Duration = Duration::from_secs(1);

/// The last attempt to refresh. All that is in it may be read by anybody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// The [`fingerprint`] of the refresh token that was sent, while no answer to it is saved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<String>,
    /// When the attempt was made: in seconds since the boot named here, and since the Unix epoch.
    pub boot_id: String,
    pub boot: u64,
    pub wall: u64,
    /// Attempts in a row without success, the one under way included.
    pub attempts: u32,
    /// The provider asked for no other attempt within these seconds.
    pub wait: u64,
    /// First refreshes of a process, less one for each ten seconds since.
    pub starts: u32,
}

/// A refresh token's name in a note: 128 bits of its SHA-256, base64url.
#[must_use]
pub fn fingerprint(token: &RefreshToken) -> String {
    URL_SAFE_NO_PAD.encode(&Sha256::digest(format!("org.bearerd.Note {}", token.expose()))[..16])
}

/// The sequence number of an account's last note; also keeps its writes apart.
type Last = Arc<Mutex<u64>>;

pub(super) struct Notes {
    folder: PathBuf,
    written: std::sync::Mutex<HashMap<AccountName, Last>>,
    complained: AtomicBool,
}

impl Notes {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, written: std::sync::Mutex::default(), complained: AtomicBool::new(false) }
    }

    /// The last note of the account's last session; one that cannot be read is none. Numbers begin anew.
    pub(super) fn read(&self, account: &AccountName) -> Option<Note> {
        self.lock().remove(account);
        let text = std::fs::read(self.file(account)).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(|_| tracing::warn!(%account, "left aside a damaged note of the last refresh"))
            .ok()
    }

    pub(super) async fn write(&self, account: &AccountName, sequence: u64, note: &Note) {
        let last = Arc::clone(self.lock().entry(account.clone()).or_default());
        let mut last = last.lock().await;
        if sequence <= *last {
            return;
        }
        *last = sequence;
        let (folder, file) = (self.folder.clone(), self.file(account));
        let text = if *note == Note::default() { None } else { serde_json::to_vec(note).ok() };
        let done = tokio::task::spawn_blocking(move || match text {
            Some(text) => replace(&folder, &file, &text),
            None => match std::fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        });
        // A disk that hangs must not hold up a refresh.
        if let Ok(Ok(Err(error))) = tokio::time::timeout(DISK_TIMEOUT, done).await
            && !self.complained.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, folder = %self.folder.display(), "refreshes cannot be noted; a crash in the midst of one may cost a login");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AccountName, Last>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, account: &AccountName) -> PathBuf {
        self.folder.join(format!("{account}.json"))
    }
}

/// Whole or not at all. Not synced: after a loss of power an old note is as good.
fn replace(folder: &Path, file: &Path, text: &[u8]) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let new = file.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    io::Write::write_all(&mut out, text)?;
    std::fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(attempts: u32) -> Note {
        Note { attempts, sent: Some("x".into()), wall: 5, ..Note::default() }
    }

    /// D7.
    #[tokio::test]
    async fn the_next_process_reads_the_last_note_and_an_empty_one_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let account = AccountName::parse("work").unwrap();
        let notes = Notes::new(folder.path().join("bearerd"));
        notes.write(&account, 2, &note(2)).await;
        notes.write(&account, 1, &note(1)).await;

        assert_eq!(
            Notes::new(folder.path().join("bearerd")).read(&account),
            Some(note(2)),
            "the late one lost"
        );
        assert_eq!(notes.read(&AccountName::parse("other").unwrap()), None);
        assert_eq!(notes.read(&account), Some(note(2)));
        notes.write(&account, 1, &note(7)).await;
        assert_eq!(notes.read(&account), Some(note(7)), "the account's next session counts from one again");

        notes.write(&account, 3, &Note::default()).await;
        assert_eq!(std::fs::read_dir(folder.path().join("bearerd")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn damaged_notes_and_a_folder_that_cannot_be_made_stop_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let account = AccountName::parse("work").unwrap();
        std::fs::write(folder.path().join("work.json"), "{").unwrap();
        assert_eq!(Notes::new(folder.path().to_owned()).read(&account), None);

        let notes = Notes::new(folder.path().join("work.json").join("below-a-file"));
        notes.write(&account, 1, &note(1)).await;
        assert_eq!(notes.read(&account), None);
    }

    #[test]
    fn a_fingerprint_names_a_token_and_does_not_give_it_away() {
        let token = RefreshToken::parse("canary-r1").unwrap();
        assert_eq!(fingerprint(&token), fingerprint(&token.clone()));
        assert_ne!(fingerprint(&token), fingerprint(&RefreshToken::parse("canary-r2").unwrap()));
        assert_eq!(fingerprint(&token).len(), 22);
    }
}
