//! Clocks that nobody sets.

use std::time::Duration;

/// The programs' clock: nanoseconds of `CLOCK_MONOTONIC`.
#[must_use]
pub fn clock() -> u64 {
    // Longer than 580 years is not up.
    u64::try_from(read(libc::CLOCK_MONOTONIC).as_nanos()).unwrap_or(u64::MAX)
}

/// How long the calling thread has been on a CPU, which is less than what passed where others want the CPU, too.
#[must_use]
pub fn cpu_time() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// `id` is of a clock that every kernel has.
fn read(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes to a timespec of ours. It fails for clocks it does not have only, and has this one.
    unsafe { libc::clock_gettime(id, &raw mut time) };
    Duration::new(
        time.tv_sec.try_into().unwrap_or_default(),
        time.tv_nsec.try_into().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_sleeps_uses_no_cpu() {
        let (before, used) = (clock(), cpu_time());
        std::thread::sleep(Duration::from_millis(200));
        let slept = Duration::from_nanos(clock() - before);
        assert!(slept >= Duration::from_millis(200));
        assert!(cpu_time() - used < slept / 2);
    }
}
