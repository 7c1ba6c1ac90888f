//! One daemon per user: two would spend each other's refresh tokens (D12).

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Held for the life of the process; the kernel lets go of it whatever ends that.
pub struct Lock(#[expect(dead_code, reason = "it is held, not used")] File);

impl Lock {
    /// Takes the lock in the user's state folder; `None` while another process has it. Wherever the
    /// home is shared, the lock is.
    ///
    /// # Errors
    /// When the folder can't be written, or its file system has no locks.
    pub fn take(folder: &Path) -> io::Result<Option<Self>> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(folder.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_has_it_and_its_end_frees_it() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        let first = Lock::take(&below).unwrap();
        assert!(first.is_some() && Lock::take(&below).unwrap().is_none());
        drop(first);
        assert!(Lock::take(&below).unwrap().is_some());
        assert!(Lock::take(&below.join("lock/under-a-file")).is_err());
    }
}
