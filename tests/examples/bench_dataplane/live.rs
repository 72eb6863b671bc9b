//! Nanoseconds a packet of each program while traffic runs, as the kernel accounts for them.
//!
//! Here caches are as warm as traffic makes them. The account itself reads the clock twice a run, which is in
//! every number and would disturb the comparison of dataplanes: so this is a measurement of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use flannel_common::program::Program;

use crate::job::Traffic;
use crate::plan::{Condition, Cores, Effort, Group};
use crate::rounds;
use crate::topology::Stage;

const TRAFFIC: [Traffic; 3] = [
    Traffic::TcpRr,
    Traffic::UdpOneWay(64),
    Traffic::TcpStream(1),
];

#[derive(Debug)]
pub(crate) struct Cost {
    traffic: Traffic,
    program: Program,
    /// Runs in the sample.
    runs: u64,
    nanos: f64,
}

/// Both nodes' programs together.
pub(crate) fn measure(stage: &mut Stage, condition: Condition) -> Vec<Cost> {
    let _accounting = enable_stats(Stats::RunTime).expect("the kernel keeps account of programs");
    let effort = Effort {
        rounds: 1,
        warm_up: Duration::from_millis(50),
        time: Duration::from_millis(400),
    };
    let mut costs = Vec::new();
    for traffic in TRAFFIC {
        let group = Group {
            condition,
            cores: Cores::One,
            flows: 1,
            traffic: vec![traffic],
        };
        let before = account();
        rounds::measure(std::slice::from_mut(stage), &group, effort);
        costs.extend(spent(traffic, &before));
    }
    costs
}

/// Time and runs of all programs of a name: other modes' are idle meanwhile.
type Account = BTreeMap<&'static str, (Duration, u64)>;

fn account() -> Account {
    let mut account = Account::new();
    // One that went meanwhile has nothing to say.
    for info in loaded_programs().filter_map(Result::ok) {
        let name = info.name_as_str().unwrap_or_default();
        if let Some(program) = Program::ALL.into_iter().find(|p| p.name() == name) {
            let (time, runs) = account.entry(program.name()).or_default();
            *time += info.run_time();
            *runs += info.run_count();
        }
    }
    account
}

fn spent(traffic: Traffic, before: &Account) -> Vec<Cost> {
    let now = account();
    let cost = |program: Program| {
        let (time, runs) = now.get(program.name()).copied()?;
        let (time_before, runs_before) = before.get(program.name()).copied().unwrap_or_default();
        let runs = runs.saturating_sub(runs_before);
        let time = time.saturating_sub(time_before);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 runs")]
        let nanos = time.as_secs_f64() * 1e9 / runs as f64;
        // Control packets and other nodes' say nothing about the traffic.
        (runs > 1_000).then_some(Cost {
            traffic,
            program,
            runs,
            nanos,
        })
    };
    Program::ALL.into_iter().filter_map(cost).collect()
}

pub(crate) fn print(costs: &[Cost]) {
    println!("\nprograms in traffic, ns a packet (with some 20 ns of accounting)");
    for c in costs {
        let (program, traffic) = (c.program.name(), c.traffic.name());
        println!(
            "{program:<14}{traffic:<28}{:>8.0}{:>12} runs",
            c.nanos, c.runs
        );
    }
}
