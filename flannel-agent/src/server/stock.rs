//! The texts of answers that clients read, and how much memory all of them may have. Most are read at once, and by many; what is
//! kept for long is kept for those who read slowly, or not at all, and they are cut off when it is too much.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Six times all leases of a hundred thousand nodes.
const MOST: usize = 128 << 20;
/// What a text costs beside its bytes, about: so their number is bounded, too.
const APIECE: usize = 512;
/// Who was cut off is said once in that time.
const SAY_AGAIN: Duration = Duration::from_mins(1);

/// All texts of a server.
#[derive(Debug)]
pub(super) struct Stock {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    held: usize,
    next: u64,
    /// Those that count, the oldest first.
    texts: BTreeMap<u64, (usize, CancellationToken)>,
    said: Option<Instant>,
}

/// One text, for as long as somebody has it.
#[derive(Debug)]
pub(super) struct Text {
    bytes: Bytes,
    number: u64,
    cut: CancellationToken,
    stock: Arc<Stock>,
}

/// A text that any number of clients read.
pub(super) type SharedText = Arc<Text>;

impl Default for Stock {
    fn default() -> Self {
        Self::of(MOST)
    }
}

impl Stock {
    fn of(most: usize) -> Self {
        Self {
            most,
            state: Mutex::default(),
        }
    }

    /// Keeps one more. Whoever still reads the oldest gives way; the newest is kept, however long it is.
    pub(super) fn keep(self: &Arc<Self>, bytes: impl Into<Bytes>) -> SharedText {
        let bytes = bytes.into();
        let cost = bytes.len() + APIECE;
        let mut state = self.state();
        while state.held + cost > self.most
            && let Some((_, (cost, cut))) = state.texts.pop_first()
        {
            state.held -= cost;
            cut.cancel();
            state.say(self.most);
        }
        let (number, cut) = (state.next, CancellationToken::new());
        state.next += 1;
        state.held += cost;
        state.texts.insert(number, (cost, cut.clone()));
        drop(state);
        Arc::new(Text {
            bytes,
            number,
            cut,
            stock: Arc::clone(self),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn say(&mut self, most: usize) {
        if self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            self.said = Some(Instant::now());
            tracing::warn!(
                "clients have {} MiB of answers unread, which is all that there is for them: whoever has not read the oldest is cut off",
                most >> 20
            );
        }
    }
}

impl Text {
    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Whether its readers are cut off.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    /// Returns when they are.
    pub(super) fn cut(&self) -> WaitForCancellationFuture<'_> {
        self.cut.cancelled()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Text {}

impl Drop for Text {
    fn drop(&mut self) {
        let mut state = self.stock.state();
        if let Some((cost, _)) = state.texts.remove(&self.number) {
            state.held -= cost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn text(stock: &Arc<Stock>, length: usize) -> SharedText {
        stock.keep(vec![b'x'; length - APIECE])
    }

    #[test]
    fn the_oldest_give_way_and_what_is_read_counts_no_more() {
        let stock = Arc::new(Stock::of(4 * KIB));
        let [first, second] = [(); 2].map(|()| text(&stock, 2 * KIB));
        assert!(!first.is_cut() && !second.is_cut());
        drop(second);
        let third = text(&stock, 2 * KIB);
        assert!(!first.is_cut() && !third.is_cut());
        let fourth = text(&stock, KIB);
        assert!(first.is_cut() && !third.is_cut() && !fourth.is_cut());
        drop(first);
        let fifth = text(&stock, KIB);
        assert!(!third.is_cut() && !fourth.is_cut() && !fifth.is_cut());
        assert_eq!(stock.state().held, 4 * KIB);
        drop((third, fourth, fifth));
        assert_eq!(stock.state().held, 0);
    }

    #[test]
    fn one_that_is_longer_than_all_is_kept_alone() {
        let stock = Arc::new(Stock::of(4 * KIB));
        let short = text(&stock, KIB);
        let long = text(&stock, 10 * KIB);
        assert!(short.is_cut() && !long.is_cut());
        let next = text(&stock, KIB);
        assert!(long.is_cut() && !next.is_cut());
    }

    #[test]
    fn empty_ones_are_not_without_number() {
        let stock = Arc::new(Stock::of(4 * KIB));
        let all: Vec<_> = (0..100).map(|_| stock.keep(Bytes::new())).collect();
        let kept = all.iter().filter(|text| !text.is_cut()).count();
        assert_eq!(kept, 4 * KIB / APIECE);
    }
}
