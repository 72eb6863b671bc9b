//! Time as somebody sees it from outside: between when and when something happened.

use std::time::Instant;

/// Too close to a limit to say on which side of it the programs were.
#[derive(Debug)]
pub(crate) struct Unclear;

/// An interval, in milliseconds since the test began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct When {
    from: i64,
    to: i64,
}

/// The programs' clock is coarse, and their limits are a few parts in a thousand short.
const SLACK: i64 = 150;

#[derive(Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }

    fn millis(&self) -> i64 {
        i64::try_from(self.0.elapsed().as_millis()).unwrap()
    }

    /// Runs something. When it ran.
    pub(crate) fn during<T>(&self, run: impl FnOnce() -> T) -> (T, When) {
        let from = self.millis();
        let result = run();
        let to = self.millis() + 1;
        (result, When { from, to })
    }
}

impl When {
    /// Whether it is less than `limit` milliseconds since `then`.
    pub(crate) fn is_within(self, limit: u64, then: Self) -> Result<bool, Unclear> {
        let limit = i64::try_from(limit).unwrap();
        if self.to - then.from + SLACK < limit {
            Ok(true)
        } else if self.from - then.to - SLACK >= limit {
            Ok(false)
        } else {
            Err(Unclear)
        }
    }

    /// So many milliseconds longer ago.
    pub(crate) fn earlier(self, millis: i64) -> Self {
        Self {
            from: self.from - millis,
            to: self.to - millis,
        }
    }
}
