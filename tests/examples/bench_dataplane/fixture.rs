//! Results as if measured, for the tests of what is made of them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::document::Document;
use crate::job::{TcpCounters, Traffic};
use crate::machine::Machine;
use crate::mode::Mode;
use crate::plan::{self, Effort, Group};
use crate::programs::Cost;
use crate::rounds::Series;
use crate::sample::Sample;

/// Rounds in which a unit cost each mode so much, on the usual node and one core.
pub(crate) fn series(traffic: Traffic, costs: &[(Mode, &[f64])]) -> Series {
    let group = Group {
        traffic: vec![traffic],
        ..plan::full()[0].clone()
    };
    let rounds = costs[0].1.len();
    let sample = |cost: f64| Sample {
        value: if traffic.is_rate() { 1.0 / cost } else { cost },
        cpu: cost,
        loss: 0.0,
        tcp: TcpCounters {
            reordered: 1,
            ..TcpCounters::default()
        },
    };
    let round = |n: usize| {
        costs
            .iter()
            .map(|(mode, c)| (*mode, sample(c[n])))
            .collect()
    };
    Series {
        group,
        traffic,
        rounds: (0..rounds).map(round).collect(),
        failed: BTreeMap::new(),
        again: BTreeMap::new(),
    }
}

/// Every group and mode of the full run. Ours takes half of the kernel's time, except for UDP of 64 bytes.
pub(crate) fn document() -> Document {
    let mut all = Vec::new();
    for group in plan::full() {
        for traffic in &group.traffic {
            let cost = |mode| match (mode, traffic) {
                (Mode::Kernel | Mode::KernelHostGw, _) | (_, Traffic::UdpOneWay(64)) => 1e-5,
                _ => 0.5e-5,
            };
            let costs: Vec<(Mode, [f64; 3])> = group
                .modes(&Mode::ALL)
                .into_iter()
                .map(|mode| (mode, [0.9, 1.0, 1.1].map(|noise| noise * cost(mode))))
                .collect();
            let costs: Vec<(Mode, &[f64])> = costs.iter().map(|(m, c)| (*m, &c[..])).collect();
            all.push(Series {
                group: group.clone(),
                ..series(*traffic, &costs)
            });
        }
    }
    let cost = |what: &str| Cost {
        program: "pod_tx".to_owned(),
        what: what.to_owned(),
        nanos: 123.4,
    };
    Document {
        machine: Machine {
            kernel: "6.18.5".to_owned(),
            processor: "a fast one".to_owned(),
            cores: 2,
            is_virtual: true,
            date: "Sun, 22 Nov 2026 03:07:00 GMT".to_owned(),
            is_release: true,
        },
        effort: Effort {
            rounds: 3,
            warm_up: Duration::from_millis(20),
            time: Duration::from_millis(150),
        },
        seconds: 1234.5,
        series: all,
        programs: vec![cost("proven, encapsulate")],
        in_traffic: vec![cost("verified, tcp-rr")],
        failures: Vec::new(),
    }
}

/// Equal, but for rounding.
#[track_caller]
pub(crate) fn same(is: f64, want: f64) {
    assert!((is - want).abs() < 1e-9 * want.abs(), "{is} is not {want}");
}
