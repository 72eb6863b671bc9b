//! The CPU that a test's packets are on.

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

/// Keeps the calling thread on the CPU that it is on.
pub fn stay() {
    go_to(sched_getcpu().expect("the number of this CPU"));
}

/// Runs on another CPU, and comes back.
///
/// # Panics
/// If there is none: who has one CPU cannot see what happens on two.
pub fn elsewhere<T>(run: impl FnOnce() -> T) -> T {
    let here = sched_getcpu().expect("the number of this CPU");
    let parent = sched_getaffinity(Pid::parent()).expect("the CPUs of the parent process");
    let other = (0..CpuSet::count()).find(|cpu| *cpu != here && parent.is_set(*cpu) == Ok(true));
    go_to(other.expect("a second CPU"));
    let result = run();
    go_to(here);
    result
}

fn go_to(cpu: usize) {
    let mut only = CpuSet::new();
    only.set(cpu).expect("a CPU's number");
    sched_setaffinity(SELF, &only).expect("run on one CPU");
}
