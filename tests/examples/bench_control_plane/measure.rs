//! The three measurements.

use std::thread::sleep;
use std::time::{Duration, Instant};

use flannel_tests::agent::Daemon;
use flannel_tests::prelude::*;
use flannel_tests::process::Process;

use crate::cluster::{Cluster, mac};
use crate::peers::Peers;

const DEADLINE: Duration = Duration::from_secs(120);
/// Short against what is measured, long enough to leave the processor to the agent.
const POLL: Duration = Duration::from_micros(200);

/// An agent that runs, on its node.
#[derive(Debug)]
pub(crate) struct Running {
    // Ends before its node goes.
    daemon: Daemon,
    node: Node,
}

/// From the start of the process until the map of a node that never had one holds `expected` peers.
pub(crate) fn start(
    node: Node,
    net: &Network,
    expected: u32,
    flags: &[&str],
) -> (Duration, Running) {
    let began = Instant::now();
    let mut daemon = Daemon::spawn(&node, net, flags);
    let expected = expected as usize;
    wait(began, &format!("{expected} peers in the map"), || {
        if let Some(status) = daemon.process().exited() {
            panic!("the agent ended: {status}");
        }
        Peers::open(&node.bpffs()).is_some_and(|peers| peers.len() >= expected)
    });
    let took = began.elapsed();
    daemon.wait_until_ready(&node);
    (took, Running { daemon, node })
}

/// From the moment a lease is sent to etcd until the map has it, `count` times.
pub(crate) fn changes(cluster: &Cluster<'_>, agent: &Running, count: u32) -> Vec<Duration> {
    let peers = Peers::open(&agent.node.bpffs()).expect("the map of an agent that is ready");
    cluster.rewriting(|rewrite| {
        (0..count)
            .map(|round| {
                // Spread over all leases; a prime, so that no round meets the one before.
                let n = round.wrapping_mul(7919) % cluster.leases();
                let generation = u8::try_from(round % 255).expect("a remainder of 255") + 1;
                let began = Instant::now();
                rewrite(n, generation);
                let wanted = Some(mac(n, generation));
                wait(began, "a changed lease", || {
                    peers.mac(cluster.subnet(n)) == wanted
                });
                began.elapsed()
            })
            .collect()
    })
}

impl Running {
    pub(crate) fn process(&mut self) -> &Process {
        self.daemon.process()
    }
}

/// Processor time the agent has used so far: unlike the clock, it hardly depends on what else runs.
pub(crate) fn processor_time(agent: &mut Running) -> Duration {
    let threads = format!("/proc/{}/task", agent.daemon.process().pid());
    let threads = std::fs::read_dir(&threads).unwrap_or_else(|e| panic!("{threads}: {e}"));
    // Per thread: nanoseconds on a processor, then waiting for one (Documentation/scheduler/sched-stats.rst).
    let nanos = threads.flatten().filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// The most memory it ever had resident, in bytes (`VmHWM` of proc(5)).
pub(crate) fn peak_memory(process: &Process) -> u64 {
    let path = format!("/proc/{}/status", process.pid());
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("VmHWM:")?
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or_else(|| panic!("no VmHWM in {path}")) * 1024
}

fn wait(began: Instant, what: &str, mut done: impl FnMut() -> bool) {
    while !done() {
        assert!(
            began.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        sleep(POLL);
    }
}
