//! Whether anything is handed out: a flag, and an empty file that keeps it through restarts.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) struct Pause {
    on: AtomicBool,
    file: PathBuf,
}

impl Pause {
    pub(super) fn below(folder: &Path) -> Self {
        let file = folder.join("access").join("paused");
        Self { on: AtomicBool::new(file.exists()), file }
    }

    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
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
