//! Interleaved rounds: every mode gets its turn in each, first in one and last in another.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::failure;
use crate::job::{Job, Traffic};
use crate::mode::Mode;
use crate::plan::{Effort, Group, LEAST_ROUNDS};
use crate::progress::Progress;
use crate::sample::Sample;
use crate::topology::Stage;

/// One sample of each mode, taken shortly after one another.
pub(crate) type Round = BTreeMap<Mode, Sample>;

/// All rounds of one kind of traffic in one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) group: Group,
    pub(crate) traffic: Traffic,
    pub(crate) rounds: Vec<Round>,
    /// Modes that could not be measured, and why. What they reached before does not count.
    pub(crate) failed: BTreeMap<Mode, String>,
    /// Modes of which a sample failed and the next one did not, and why the last of them failed.
    pub(crate) again: BTreeMap<Mode, String>,
}

/// Measures until all rounds are taken or the group's share of the time is over.
pub(crate) fn measure(
    stages: &mut [Stage],
    group: &Group,
    effort: Effort,
    clock: &Clock,
    progress: &mut Progress,
) -> Vec<Series> {
    let mut turn = Turn {
        group,
        effort,
        clock,
        series: empty(group),
    };
    let mut stages: Vec<&mut Stage> = stages
        .iter_mut()
        .filter(|stage| group.admits(stage.mode))
        .collect();
    for stage in &mut stages {
        let set = || {
            stage.set(group.condition.wire, group.condition.br_netfilter);
            stage.flush_conntrack();
        };
        if let Err(why) = failure::caught(set) {
            turn.give_up(stage.mode, &why);
        }
    }
    let begin = clock.elapsed();
    let rounds = group.rounds(effort);
    for round in 0..rounds {
        let done = u32::try_from(round).unwrap_or(u32::MAX);
        let average = (clock.elapsed() - begin).checked_div(done);
        let enough = round >= LEAST_ROUNDS.min(rounds) && average.is_some_and(|a| clock.lacks(a));
        if enough || clock.is_over() {
            break;
        }
        for series in &mut turn.series {
            series.rounds.push(Round::new());
        }
        let first = round % stages.len().max(1);
        stages.rotate_left(first);
        if group.flows == 1 {
            for n in 0..turn.series.len() {
                for stage in &mut stages {
                    progress.show(round, rounds, stage.mode, turn.series[n].traffic);
                    turn.take(stage, n);
                }
            }
        } else {
            // Many flows are live for as long as one mode's turn lasts.
            for stage in &mut stages {
                progress.show(round, rounds, stage.mode, Traffic::Fill);
                turn.with_flows(stage);
            }
        }
        stages.rotate_right(first);
    }
    for stage in &stages {
        turn.complete(stage.mode);
    }
    turn.series
}

/// No sample yet.
pub(crate) fn empty(group: &Group) -> Vec<Series> {
    let series = |traffic: &Traffic| Series {
        group: group.clone(),
        traffic: *traffic,
        rounds: Vec::new(),
        failed: BTreeMap::new(),
        again: BTreeMap::new(),
    };
    group.traffic.iter().map(series).collect()
}

struct Turn<'a> {
    group: &'a Group,
    effort: Effort,
    clock: &'a Clock,
    series: Vec<Series>,
}

impl Turn<'_> {
    /// One sample of the `n`-th kind of traffic.
    fn take(&mut self, stage: &mut Stage, n: usize) {
        let series = &self.series[n];
        if series.failed.contains_key(&stage.mode) || self.clock.is_over() {
            return;
        }
        let traffic = series.traffic;
        if self.group.flows == 1 && self.group.condition.beside.is_outside() {
            // Closed connections keep their ports: the next sample shall find as many free as this one.
            stage.flush_conntrack();
        }
        let mut sample = self.sample(stage, traffic);
        if let Err(why) = &sample {
            // Once more: a machine that was elsewhere for a moment shall not cost the cell.
            self.series[n].again.insert(stage.mode, why.clone());
            self.restart(stage);
            sample = self.sample(stage, traffic);
        }
        let series = &mut self.series[n];
        match sample {
            Ok(sample) => {
                if let Some(round) = series.rounds.last_mut() {
                    round.insert(stage.mode, sample);
                }
            }
            Err(why) => {
                series.again.remove(&stage.mode);
                series.failed.insert(stage.mode, why);
                self.restart(stage);
            }
        }
    }

    /// All kinds of traffic beside the group's number of flows.
    fn with_flows(&mut self, stage: &mut Stage) {
        let all_failed = self
            .series
            .iter()
            .all(|s| s.failed.contains_key(&stage.mode));
        if all_failed || self.clock.is_over() {
            return;
        }
        if let Err(why) = self.sample(stage, Traffic::Fill) {
            self.give_up(stage.mode, &format!("making the flows live: {why}"));
            self.restart(stage);
        }
        for n in 0..self.series.len() {
            self.take(stage, n);
        }
        stage.flush_conntrack();
    }

    fn restart(&mut self, stage: &mut Stage) {
        if let Err(why) = failure::caught(|| stage.restart()) {
            self.give_up(stage.mode, &why);
        }
    }

    fn give_up(&mut self, mode: Mode, why: &str) {
        for series in &mut self.series {
            let why = || why.to_owned();
            series.failed.entry(mode).or_insert_with(why);
        }
    }

    /// What the time did not suffice for has failed, too.
    fn complete(&mut self, mode: Mode) {
        for series in &mut self.series {
            if !series.rounds.iter().any(|round| round.contains_key(&mode)) {
                let why = || "no time was left".to_owned();
                series.failed.entry(mode).or_insert_with(why);
            }
        }
    }

    fn sample(&self, stage: &mut Stage, traffic: Traffic) -> Result<Sample, String> {
        let job = Job {
            traffic,
            flows: self.group.flows,
            warm_up: self.effort.warm_up,
            time: match traffic {
                Traffic::Fill => Duration::ZERO,
                _ => self.effort.time,
            },
            core: 0,
            server: [0; 4].into(),
            ports: Vec::new(),
        };
        let (client, server) = self.group.core_numbers();
        stage.ends.sample(job, client, server)
    }
}
