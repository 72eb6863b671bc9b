//! Writing the file, off the threads that do other work, and saying once that it cannot be.

use std::path::PathBuf;

use super::file::{self, Snapshot};

#[derive(Debug)]
pub(super) struct Writer {
    file: PathBuf,
    written: Option<Snapshot>,
    is_broken: bool,
}

impl Writer {
    pub(super) fn new(file: PathBuf) -> Self {
        Self {
            file,
            written: None,
            is_broken: false,
        }
    }

    /// Writes what is not in the file yet.
    pub(super) async fn write(&mut self, snapshot: Snapshot) {
        let before = self.written.as_ref();
        if before.is_some_and(|before| before.says_the_same(&snapshot)) {
            return;
        }
        let (path, saved) = (self.file.clone(), snapshot.clone());
        let outcome = tokio::task::spawn_blocking(move || file::save(&path, &saved)).await;
        match outcome.unwrap_or_else(|broken| Err(broken.into())) {
            Ok(()) => {
                self.is_broken = false;
                self.written = Some(snapshot);
            }
            Err(error) if !self.is_broken => {
                self.is_broken = true;
                tracing::warn!(
                    "cannot write {}: {error}: a boot while the datastore is away would wait for it; make its folder writable \
                     or choose another with --snapshot-dir",
                    self.file.display()
                );
            }
            Err(_) => {}
        }
    }
}
