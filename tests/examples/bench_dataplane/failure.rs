//! What goes wrong is a result like any other: one cell that fails does not end the run.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::OnceLock;

static FIRST: OnceLock<String> = OnceLock::new();

/// Runs code of the harness, which fails by panicking, and returns with what it said.
///
/// What `work` changes may be half-changed afterwards: use it for measuring no more.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|panic| message(&*panic))
}

/// From now on [`first`] knows what the first panic of any thread said.
pub(crate) fn keep_first() {
    panic::set_hook(Box::new(|info| {
        let _ = FIRST.set(message(info.payload()));
    }));
}

/// The scope of a thread that panicked says nothing but that it did.
pub(crate) fn first() -> String {
    FIRST.get().cloned().unwrap_or_default()
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}

/// For a table: the first line, not too much of it.
pub(crate) fn short(reason: &str) -> String {
    const ROOM: usize = 160;
    let line = reason.lines().next().unwrap_or_default();
    match line.char_indices().nth(ROOM) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_caught_with_what_it_said() {
        assert_eq!(caught(|| 7), Ok(7));
        let port = 5;
        let said = caught(|| panic!("bind UDP port {port}"));
        assert_eq!(said, Err::<(), _>("bind UDP port 5".to_owned()));
        assert_eq!(caught(|| panic!("plain")), Err::<(), _>("plain".to_owned()));
    }

    #[test]
    fn a_reason_is_cut_at_its_first_line() {
        assert_eq!(short("one\ntwo"), "one");
        assert_eq!(short(&"ä".repeat(200)).chars().count(), 161);
    }
}
