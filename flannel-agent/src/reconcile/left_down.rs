//! A kernel device that took our pair's place, and is left down: whoever made it has ended.

use std::time::{Duration, Instant};

/// A flanneld that found our UDP port taken has ended, and left its device down. It is started again by then, if it is to be.
const PATIENCE: Duration = Duration::from_secs(30);
/// Supervisors wait ever longer before a start (CrashLoopBackOff: five minutes at most). Who makes the device again after it was taken
/// back was one of them, and finds the port free only if it is waited for longer.
const LONGEST: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct LeftDown {
    since: Option<Instant>,
    patience: Duration,
}

impl Default for LeftDown {
    fn default() -> Self {
        Self {
            since: None,
            patience: PATIENCE,
        }
    }
}

impl LeftDown {
    /// There is no such device.
    pub(super) fn gone(&mut self, now: Instant) {
        if self
            .since
            .take()
            .is_some_and(|since| self.is_over(since, now))
        {
            self.patience = (2 * self.patience).min(LONGEST);
        }
    }

    /// There is one. Returns whether it is to be replaced.
    pub(super) fn there(&mut self, up: bool, now: Instant) -> bool {
        if up {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        self.is_over(since, now)
    }

    fn is_over(&self, since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) >= self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_again_is_waited_for_longer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut left = LeftDown::default();
        assert!(!left.there(false, at(0)) && !left.there(false, at(29)));
        assert!(left.there(false, at(30)));
        left.gone(at(31));
        assert!(!left.there(false, at(40)) && !left.there(false, at(99)));
        assert!(left.there(false, at(100)));
        left.gone(at(101));
        assert!(!left.there(false, at(200)) && !left.there(true, at(300)));
        assert!(!left.there(false, at(310)), "it was up meanwhile");
        left.gone(at(320));
        assert!(!left.there(false, at(400)));
        assert!(left.there(false, at(520)), "that was no turn of ours");
    }
}
