//! Whether anything is handed out. The user's own pause is kept by an empty file through restarts; the one of
//! a locked screen is apart from it, so that the end of one is not the end of the other.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) struct Pause {
    on: AtomicBool,
    locked: AtomicBool,
    file: PathBuf,
}

impl Pause {
    pub(super) fn below(folder: &Path) -> Self {
        let file = folder.join("access").join("paused");
        Self { on: AtomicBool::new(file.exists()), locked: AtomicBool::new(false), file }
    }

    /// Why nothing is handed out.
    pub(super) fn why(&self) -> Option<&'static str> {
        if self.on.load(Ordering::Relaxed) {
            return Some("bearerd is paused and hands nothing out; run: bearerctl resume");
        }
        let locked = self.locked.load(Ordering::Relaxed);
        locked.then_some("the screen is locked, and pause_on_lock is set; unlock the screen, then try again")
    }

    /// Takes note of the screen's lock; whether that is news.
    pub(super) fn lock(&self, locked: bool) -> bool {
        self.locked.swap(locked, Ordering::Relaxed) != locked
    }

    pub(super) async fn set(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
        let file = self.file.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || keep(&file, on)).await {
            tracing::warn!(%error, "the pause cannot be saved; a restart of bearerd will not know of it");
        }
    }
}

fn keep(file: &Path, on: bool) -> std::io::Result<()> {
    if on {
        if let Some(folder) = file.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        return std::fs::write(file, "");
    }
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
