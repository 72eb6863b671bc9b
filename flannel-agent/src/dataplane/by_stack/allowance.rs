//! How many ICMP errors may leave: whoever sends to nobody chooses whom they go to, and how many.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// As the kernel's own for all of a node (`net.ipv4.icmp_msgs_burst`; `icmp_msgs_per_sec` is one a millisecond).
const BURST: u32 = 50;

#[derive(Debug)]
pub(super) struct Allowance(Mutex<(u32, Instant)>);

impl Default for Allowance {
    fn default() -> Self {
        Self(Mutex::new((BURST, Instant::now())))
    }
}

impl Allowance {
    /// Whether one more may.
    pub(super) fn take(&self) -> bool {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = u32::try_from(held.1.elapsed().as_millis()).unwrap_or(BURST);
        if gained > 0 {
            *held = (refilled(held.0, gained), Instant::now());
        }
        let may = held.0 > 0;
        held.0 = held.0.saturating_sub(1);
        may
    }
}

fn refilled(left: u32, gained: u32) -> u32 {
    left.saturating_add(gained).min(BURST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_one_a_millisecond() {
        assert_eq!(refilled(0, 3), 3);
        assert_eq!(refilled(49, 3), BURST);
        assert_eq!(refilled(0, u32::MAX), BURST);
        let empty = Allowance(Mutex::new((
            0,
            Instant::now() + std::time::Duration::from_secs(60),
        )));
        assert!(!empty.take());
        let one = Allowance(Mutex::new((
            1,
            Instant::now() + std::time::Duration::from_secs(60),
        )));
        assert!(one.take() && !one.take());
    }
}
