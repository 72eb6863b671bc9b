//! Waiting for a condition: the one place of the tests that sleeps.

use std::fmt::Display;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A deadline for what takes milliseconds on an idle machine; generous, because the machine is not idle.
pub const SOON: Duration = Duration::from_secs(15);

const POLL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not hold within `deadline`, naming `what`.
#[track_caller]
pub fn eventually(what: impl Display, deadline: Duration, mut condition: impl FnMut() -> bool) {
    eventually_some(what, deadline, || condition().then_some(()));
}

/// Waits until `value` has something to return.
///
/// # Panics
/// When it has nothing within `deadline`, naming `what`.
#[track_caller]
pub fn eventually_some<T>(
    what: impl Display,
    deadline: Duration,
    mut value: impl FnMut() -> Option<T>,
) -> T {
    let deadline = deadline * patience();
    let start = Instant::now();
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(
            start.elapsed() < deadline,
            "not within {} s: {what}",
            deadline.as_secs_f32()
        );
        sleep(POLL);
    }
}

/// What `call` returns, called again while a signal ends it: a socket with a time-out is also interrupted where no
/// handler runs, whenever the process was stopped and goes on (signal(7)), and whole machines are.
///
/// # Errors
/// Those of `call`.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Where a processor is emulated everything takes longer, and a deadline of the idle kind is none:
/// `cargo xtask test --kernel` says by how much.
pub(crate) fn patience() -> u32 {
    std::env::var("FLANNEL_TEST_PATIENCE")
        .ok()
        .and_then(|factor| factor.parse().ok())
        .unwrap_or(1)
}
