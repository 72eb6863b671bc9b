//! Notices when the whole machine stood still: a virtual machine that is stopped, moved or starved for a while.

use std::fs;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::process;

/// How often it is looked.
const TICK: Duration = Duration::from_millis(50);
/// A thread that is favoured over all tests waits as long for a processor on no machine that goes on.
const STOOD: Duration = Duration::from_millis(500);

/// From when until when it stood still.
type Stall = (Instant, Instant);

/// Looks until it is dropped.
#[derive(Debug)]
pub(crate) struct Stalls {
    found: Arc<Mutex<Vec<Stall>>>,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Stalls {
    pub(crate) fn watch() -> Self {
        let found = Arc::default();
        let (end, ended) = mpsc::channel();
        let seen = Arc::clone(&found);
        let thread = std::thread::spawn(move || {
            if let Err(error) = favour_this_thread() {
                eprintln!("test: the watch over stalls is not favoured: {error:#}");
            }
            let mut before = Instant::now();
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                let now = Instant::now();
                note(&seen, before, now);
                before = now;
            }
        });
        Self {
            found,
            end: Some(end),
            thread: Some(thread),
        }
    }

    /// How long it stood still, at the longest, in the time from `begin` to `end`.
    pub(crate) fn longest(&self, (begin, end): (Instant, Instant)) -> Option<Duration> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let within = found.iter().filter(|(from, to)| *from < end && begin < *to);
        within.map(|(from, to)| *to - *from).max()
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}

fn note(found: &Mutex<Vec<Stall>>, before: Instant, now: Instant) {
    if now - before >= STOOD {
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.push((before, now));
    }
}

/// Without it the thread is one among the others, and what it then finds are machines so loaded that the same holds for them.
fn favour_this_thread() -> Result<()> {
    // "PID/task/TID"
    let itself = fs::read_link("/proc/thread-self")?;
    let id = itself.file_name().unwrap_or_default();
    let mut renice = Command::new("renice");
    process::read(renice.args(["-n", "-15", "-p"]).arg(id)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_overlaps_counts() {
        let stalls = Stalls::watch();
        let zero = Instant::now() + Duration::from_hours(1);
        let at = |millis| zero + Duration::from_millis(millis);
        for (from, to) in [(0, 499), (1000, 1500), (2000, 4000)] {
            note(&stalls.found, at(from), at(to));
        }
        assert_eq!(stalls.longest((at(0), at(999))), None);
        let longest = |from, to| stalls.longest((at(from), at(to)));
        assert_eq!(longest(1400, 1600), Some(Duration::from_millis(500)));
        assert_eq!(longest(0, 9000), Some(Duration::from_secs(2)));
        assert_eq!(longest(4000, 9000), None);
    }
}
