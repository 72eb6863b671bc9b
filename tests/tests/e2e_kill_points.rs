//! SIGKILL at any moment of a start: the next start finds whatever was half done, and finishes it.

#![cfg(test)]

use std::time::{Duration, Instant};

use flannel_tests::agent::{self, Daemon};
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use flannel_tests::udp::assert_nothing_lost;

/// Starts that are killed, in all.
const KILLS: usize = 1_000;
/// Of these, on a node that has nothing yet: each needs a node swept clean.
const FROM_NOTHING: usize = 60;
/// One in so many kills is followed by a start that nobody disturbs; the others by the next kill, which meets
/// what several starts left.
const CHAIN: usize = 8;

/// Settings that all change what the programs are told, or which of them run.
const SETTINGS: [&[&str]; 4] = [
    &[],
    &["--source-check=off"],
    &["--fast-path=off"],
    &["--pod-hook=bridge", "--source-check=off"],
];

/// Kills a start at a random moment before it would have been ready.
struct Killer {
    /// How long the last undisturbed start took.
    start: Duration,
}

impl Killer {
    fn kill(&self, agent: &Agent, settings: &[&str]) {
        let mut daemon = Daemon::spawn(agent.node(), agent.net(), settings);
        std::thread::sleep(self.start.mul_f64(rand::random()));
        daemon.process().kill();
    }

    fn undisturbed(&mut self, agent: &mut Agent, settings: &[&str]) {
        let begun = Instant::now();
        agent.restart_with(settings);
        self.start = begun.elapsed();
    }
}

/// Each start has other settings than the one before, so there is something to do in each.
#[test]
fn killed_at_any_point_of_a_swap_the_next_start_converges_and_no_packet_is_lost() {
    let mut pair = Pair::of_agents();
    let flows = pair.flows();
    pair.one.kill();
    let mut killer = Killer {
        start: Duration::ZERO,
    };
    killer.undisturbed(&mut pair.one, SETTINGS[0]);
    for n in 1..=KILLS - FROM_NOTHING {
        pair.one.kill();
        killer.kill(&pair.one, SETTINGS[n % SETTINGS.len()]);
        if n % CHAIN == 0 {
            killer.undisturbed(&mut pair.one, SETTINGS[n / CHAIN % SETTINGS.len()]);
            pair.pod1.ping(pair.pod2.address()).succeeds();
            assert_nothing_was_given_up(&pair.one);
        }
    }
    assert_nothing_lost(flows);
}

/// The first start of a node makes most of what there is to make.
#[test]
fn killed_at_any_point_of_the_first_start_the_next_one_converges() {
    let mut pair = Pair::of_agents();
    let mut killer = Killer {
        start: Duration::ZERO,
    };
    clean(&mut pair.one);
    killer.undisturbed(&mut pair.one, &[]);
    for n in 0..FROM_NOTHING {
        clean(&mut pair.one);
        killer.kill(&pair.one, SETTINGS[n % SETTINGS.len()]);
        killer.undisturbed(&mut pair.one, &[]);
        pair.pod1.reaches(&pair.pod2);
        pair.pod2.reaches(&pair.pod1);
    }
}

/// Ends the agent and takes everything of it off the node.
fn clean(agent: &mut Agent) {
    agent.kill();
    let subnet_file = agent.subnet_file().display().to_string();
    let bpffs = agent.node().bpffs().display().to_string();
    let (bpffs, subnet_file) = (
        format!("--bpffs={bpffs}"),
        format!("--subnet-file={subnet_file}"),
    );
    let flags = ["cleanup", &bpffs, &subnet_file];
    let output = agent::command(agent, &flags).output().expect("run cleanup");
    assert!(output.status.success(), "{output:?}");
}

/// Ready means that all that is essential is done; the rest is named when it fails.
fn assert_nothing_was_given_up(agent: &Agent) {
    let log = agent.log();
    assert!(!log.contains("going on without"), "{log}");
}
