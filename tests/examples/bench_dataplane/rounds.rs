//! Interleaved rounds: every mode gets its turn in each, first in one and last in another.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::job::{Job, Traffic};
use crate::mode::Mode;
use crate::plan::{Effort, Group};
use crate::sample::Sample;
use crate::topology::Stage;

/// One sample of each mode, taken shortly after one another.
pub(crate) type Round = BTreeMap<Mode, Sample>;

/// All rounds of one kind of traffic in one group.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) group: Group,
    pub(crate) traffic: Traffic,
    pub(crate) rounds: Vec<Round>,
}

pub(crate) fn measure(stages: &mut [Stage], group: &Group, effort: Effort) -> Vec<Series> {
    for stage in &mut *stages {
        stage.set(group.condition.wire, group.condition.br_netfilter);
        stage.flush_conntrack();
    }
    let mut series: Vec<Series> = group
        .traffic
        .iter()
        .map(|traffic| Series {
            group: group.clone(),
            traffic: *traffic,
            rounds: vec![Round::new(); effort.rounds],
        })
        .collect();
    for round in 0..effort.rounds {
        if group.flows == 1 {
            for s in &mut series {
                for stage in rotated(stages, round) {
                    if group.condition.beside.is_outside() {
                        // Closed connections keep their ports: the next sample shall find as many free as this one.
                        stage.flush_conntrack();
                    }
                    let sample = sample(stage, group, s.traffic, effort);
                    s.rounds[round].insert(stage.mode, sample);
                }
            }
        } else {
            // Many flows are live for as long as one mode's turn lasts.
            for stage in rotated(stages, round) {
                sample(stage, group, Traffic::Fill, effort);
                for s in &mut series {
                    let sample = sample(stage, group, s.traffic, effort);
                    s.rounds[round].insert(stage.mode, sample);
                }
                stage.flush_conntrack();
            }
        }
    }
    series
}

fn rotated(stages: &mut [Stage], by: usize) -> impl Iterator<Item = &mut Stage> {
    let by = by % stages.len();
    let (first, second) = stages.split_at_mut(by);
    second.iter_mut().chain(first)
}

fn sample(stage: &mut Stage, group: &Group, traffic: Traffic, effort: Effort) -> Sample {
    let job = Job {
        traffic,
        flows: group.flows,
        warm_up: effort.warm_up,
        time: match traffic {
            Traffic::Fill => Duration::ZERO,
            _ => effort.time,
        },
        core: 0,
        server: [0; 4].into(),
        ports: Vec::new(),
    };
    let (client, server) = group.core_numbers();
    stage.ends.sample(job, client, server)
}
