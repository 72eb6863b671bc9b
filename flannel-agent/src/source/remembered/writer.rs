//! Writing the file, off the threads that do other work, and saying once that it cannot be.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use super::file::{self, Snapshot};

/// A lease without an end counts for a day after the datastore has confirmed it, and it may be renewed for longer that nothing changes.
const CONFIRM: Duration = Duration::from_hours(1);

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

    /// Whether the file does not say it yet.
    pub(super) fn lacks(&self, snapshot: &Snapshot) -> bool {
        let before = self.written.as_ref();
        before.is_none_or(|(before, _)| !before.says_the_same(snapshot))
    }

    /// Whether the file says it, but not of now, or of another place: as long as the datastore is silent it stays as it is.
    pub(super) fn is_stale(&self, snapshot: &Snapshot) -> bool {
        self.written.as_ref().is_some_and(|(before, at)| {
            let passed = at.elapsed();
            !before.clock_went_on_until(snapshot, passed)
                || before.place != snapshot.place
                || (snapshot.own.never_ends() && passed >= CONFIRM)
        })
    }

    pub(super) async fn write(&mut self, snapshot: Snapshot) {
        let now = Instant::now();
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
