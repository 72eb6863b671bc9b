//! Writing the file, off the threads that do other work, and saying once that it cannot be.

use std::path::PathBuf;

use tokio::time::Instant;

use super::file::{self, Snapshot};

#[derive(Debug)]
pub(super) struct Writer {
    file: PathBuf,
    written: Option<(Snapshot, Instant)>,
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
        let now = Instant::now();
        if let Some((before, at)) = &self.written
            && before.says_the_same(&snapshot)
            && before.clock_went_on_until(&snapshot, now.duration_since(*at))
        {
            return;
        }
        let (path, saved) = (self.file.clone(), snapshot.clone());
        let outcome = tokio::task::spawn_blocking(move || file::save(&path, &saved)).await;
        match outcome.unwrap_or_else(|broken| Err(broken.into())) {
            Ok(()) => {
                self.is_broken = false;
                self.written = Some((snapshot, now));
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
