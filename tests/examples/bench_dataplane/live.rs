//! Nanoseconds a packet of each program while traffic runs, as the kernel accounts for them.
//!
//! Here caches are as warm as traffic makes them. The account itself reads the clock twice a run, which is in
//! every number and would disturb the comparison of dataplanes: so this is a measurement of its own.

use std::collections::BTreeMap;
use std::slice;
use std::time::Duration;

use aya::maps::MapInfo;
use aya::programs::{ProgramInfo, loaded_programs};
use aya::sys::{Stats, enable_stats};
use flannel_common::program::Program;

use crate::clock::Clock;
use crate::job::Traffic;
use crate::plan::{Condition, Cores, Effort, Group};
use crate::programs::Cost;
use crate::progress::Progress;
use crate::rounds;
use crate::topology::Stage;

pub(crate) const TITLE: &str = "programs in traffic, ns a packet (with some 20 ns of accounting)";

const TRAFFIC: [Traffic; 4] = [
    Traffic::TcpRr,
    Traffic::TcpCrr,
    Traffic::UdpOneWay(64),
    Traffic::TcpStream(1),
];

const EFFORT: Effort = Effort {
    rounds: 1,
    warm_up: Duration::from_millis(50),
    time: Duration::from_millis(300),
};

/// For one mode.
pub(crate) const EXPECTED: Duration = Duration::from_millis(4 * 500);

/// The programs of a mode's nodes together.
///
/// # Errors
/// When traffic could not be sent or the kernel does not tell.
pub(crate) fn measure(
    stage: &mut Stage,
    condition: Condition,
    clock: &Clock,
    progress: &mut Progress,
) -> Result<Vec<Cost>, String> {
    let _accounting = enable_stats(Stats::RunTime)
        .map_err(|e| format!("have the kernel keep account of programs: {e}"))?;
    let counters = counters(stage)?;
    let mut costs = Vec::new();
    for traffic in TRAFFIC {
        let group = Group {
            condition,
            cores: Cores::One,
            flows: 1,
            traffic: vec![traffic],
        };
        let before = account(&counters);
        for series in rounds::measure(slice::from_mut(stage), &group, EFFORT, clock, progress) {
            if let Some(why) = series.failed.get(&stage.mode) {
                return Err(format!("{}: {why}", traffic.name()));
            }
        }
        let way = if condition.beside.is_outside() {
            " to the outside"
        } else {
            ""
        };
        let what = format!("{}{way}, {}", stage.mode.name(), traffic.name());
        costs.extend(spent(&what, &before, &account(&counters)));
    }
    Ok(costs)
}

/// Ids of the maps in which this mode's programs count: every program has exactly one of them.
fn counters(stage: &Stage) -> Result<Vec<u32>, String> {
    let id = |pin| MapInfo::from_pin(pin).map(|info| info.id());
    let ids: Result<_, _> = stage.counters.iter().map(id).collect();
    ids.map_err(|e| format!("look at the pinned counters: {e}"))
}

/// Time and runs by program.
type Account = BTreeMap<&'static str, (Duration, u64)>;

fn account(counters: &[u32]) -> Account {
    let mut account = Account::new();
    // One that went meanwhile has nothing to say.
    for info in loaded_programs().filter_map(Result::ok) {
        if let Some(program) = named(&info).filter(|_| counts_in(&info, counters)) {
            let (time, runs) = account.entry(program.name()).or_default();
            *time += info.run_time();
            *runs += info.run_count();
        }
    }
    account
}

fn named(info: &ProgramInfo) -> Option<Program> {
    let name = info.name_as_str()?;
    Program::ALL.into_iter().find(|p| p.name() == name)
}

fn counts_in(info: &ProgramInfo, counters: &[u32]) -> bool {
    let maps = info.map_ids().ok().flatten().unwrap_or_default();
    maps.iter().any(|map| counters.contains(map))
}

fn spent(what: &str, before: &Account, now: &Account) -> Vec<Cost> {
    let cost = |program: Program| {
        let (time, runs) = now.get(program.name()).copied()?;
        let (time_before, runs_before) = before.get(program.name()).copied().unwrap_or_default();
        let runs = runs.saturating_sub(runs_before);
        let time = time.saturating_sub(time_before);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 runs")]
        let nanos = time.as_secs_f64() * 1e9 / runs as f64;
        // A few control packets say nothing about the traffic.
        (runs > 1_000).then(|| Cost {
            program: program.name().to_owned(),
            what: what.to_owned(),
            nanos,
        })
    };
    Program::ALL.into_iter().filter_map(cost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::same;

    #[test]
    fn only_what_ran_often_since_then_is_told() {
        let micros = Duration::from_micros;
        let before = Account::from([("pod_tx", (micros(500), 10_000))]);
        let now = Account::from([
            ("pod_tx", (micros(1_500), 20_000)),
            ("uplink_rx", (micros(600), 2_000)),
            ("overlay_tx", (micros(900), 3)),
        ]);
        let costs = spent("verified, tcp-rr", &before, &now);
        let names: Vec<&str> = costs.iter().map(|c| c.program.as_str()).collect();
        assert_eq!(names, ["uplink_rx", "pod_tx"]);
        same(costs[0].nanos, 300.0);
        same(costs[1].nanos, 100.0);
    }
}
