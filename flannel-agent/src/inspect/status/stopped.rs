//! An agent that was stopped (SIGSTOP, a debugger): it looks after nothing, and holds the lock by which it is known to live.

use std::fs;
use std::path::Path;

/// Of names of processes the kernel keeps 15 bytes; other builds have longer ones.
const NAME: &str = "flannel-agent";

/// Whether `pid` is an agent of this network namespace, and stopped. What cannot be found out is no: who looks from outside of its
/// container has other numbers.
pub(super) fn is_stopped(pid: u32) -> bool {
    let process = Path::new("/proc").join(pid.to_string());
    let namespace = |process: &Path| fs::read_link(process.join("ns/net")).ok();
    let ours = namespace(Path::new("/proc/self"));
    let is_agent = fs::read_to_string(process.join("comm")).is_ok_and(|it| it.starts_with(NAME));
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    is_agent && ours.is_some() && namespace(&process) == ours && is_state_of_stopped(&status)
}

/// `State` in `/proc/PID/status`: T (stopped) or t (tracing stop), fs/proc/array.c.
fn is_state_of_stopped(status: &str) -> bool {
    let mut lines = status.lines();
    let state = lines.find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| state.trim_start().starts_with(['T', 't']))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("T (stopped)", true)]
    #[case("t (tracing stop)", true)]
    #[case("S (sleeping)", false)]
    #[case("R (running)", false)]
    #[case("Z (zombie)", false)]
    fn states(#[case] state: &str, #[case] stopped: bool) {
        let status = format!("Name:\tflannel-agent\nUmask:\t0022\nState:\t{state}\nTgid:\t7\n");
        assert_eq!(is_state_of_stopped(&status), stopped);
    }

    #[test]
    fn nobody_is_not_stopped() {
        assert!(!is_state_of_stopped(""));
        assert!(!is_stopped(std::process::id()), "and no agent");
        assert!(!is_stopped(u32::MAX));
    }
}
