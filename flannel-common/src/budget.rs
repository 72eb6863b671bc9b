//! How often something may be done in a short time: what a stranger can ask for must not keep a CPU busy.

use crate::flow::Tick;

/// What was spent in the tick at hand (1.05 ms). Zeroed, nothing was.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    tick: Tick,
    spent: u32,
}

impl Budget {
    /// Takes one of `limit` for the tick `now`. False if nothing is left of them.
    #[inline(always)]
    pub const fn spend(&mut self, now: Tick, limit: u32) -> bool {
        if self.tick != now {
            self.tick = now;
            self.spent = 0;
        }
        if self.spent >= limit {
            return false;
        }
        self.spent += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tick_has_its_own() {
        let mut budget = Budget::default();
        for tick in [1, 3, u32::MAX, 5] {
            let granted = (0..100).filter(|_| budget.spend(tick, 32)).count();
            assert_eq!(granted, 32);
        }
        assert!(!budget.spend(5, 0) && !budget.spend(6, 0));
        assert!(budget.spend(6, 1));
    }
}
