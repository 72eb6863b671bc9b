//! Time, coarse and in 32 bits.

/// Monotonic time in units of 2^20 ns (1.05 ms); wraps after 52 days.
pub type Tick = u32;

/// Milliseconds (rounded down) as ticks.
pub(crate) const fn ticks(ms: u32) -> Tick {
    ms - ms / 20
}

/// From nanoseconds of the monotonic clock. Never 0, which stands for "never".
#[inline(always)]
pub const fn tick(ns: u64) -> Tick {
    #[expect(clippy::cast_possible_truncation, reason = "wraps by design")]
    let tick = (ns >> 20) as u32;
    tick | 1
}
