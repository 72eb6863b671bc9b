//! A run ends when it said it would: every step has a share of the time, and what is left goes to the next.

use std::time::{Duration, Instant};

/// The time of the whole run, dealt out step by step in proportion to what each is expected to take.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    limit: Duration,
    /// Of the steps that have not begun.
    expected: Duration,
    share_ends: Duration,
}

impl Clock {
    pub(crate) fn start(limit: Duration, expected: Duration) -> Self {
        Self {
            start: Instant::now(),
            limit,
            expected,
            share_ends: Duration::ZERO,
        }
    }

    /// A step begins that is expected to take this long.
    pub(crate) fn begin(&mut self, expected: Duration) {
        let now = self.elapsed();
        self.share_ends = now + share(self.limit.saturating_sub(now), expected, self.expected);
        self.expected = self.expected.saturating_sub(expected);
    }

    /// Whether the step's time does not suffice for another `more`.
    pub(crate) fn lacks(&self, more: Duration) -> bool {
        self.elapsed() + more > self.share_ends
    }

    /// Whether the whole run's time is over.
    pub(crate) fn is_over(&self) -> bool {
        self.elapsed() >= self.limit
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// The part of `left` that a step may take which is expected to need `step` of `expected`.
fn share(left: Duration, step: Duration, expected: Duration) -> Duration {
    if expected <= step {
        return left;
    }
    left.mul_f64(step.as_secs_f64() / expected.as_secs_f64())
}

/// As people say it.
pub(crate) fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        _ => format!("{} min", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_step_gets_its_part_of_what_is_left_and_the_last_all_of_it() {
        assert_eq!(share(s(100), s(10), s(40)), s(25));
        assert_eq!(share(s(10), s(10), s(40)), Duration::from_millis(2500));
        assert_eq!(share(s(7), s(10), s(10)), s(7));
        assert_eq!(share(s(0), s(10), s(40)), s(0));
    }

    #[test]
    fn without_time_everything_is_over() {
        let mut clock = Clock::start(s(0), s(10));
        clock.begin(s(5));
        assert!(clock.is_over() && clock.lacks(s(1)));
        let mut clock = Clock::start(s(100_000), s(10));
        clock.begin(s(5));
        assert!(!clock.is_over() && !clock.lacks(s(1)) && clock.lacks(s(60_000)));
    }

    #[test]
    fn times_read_well() {
        assert_eq!(minutes(s(110)), "110 s");
        assert_eq!(minutes(s(1441)), "25 min");
    }
}
