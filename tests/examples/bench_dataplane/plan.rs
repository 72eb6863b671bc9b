//! What is measured under which circumstances.

use std::time::Duration;

use flannel_tests::prelude::Wire;

use crate::job::Traffic;
use crate::outside;
use crate::topology::Beside;

/// Circumstances of the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) wire: Wire,
    pub(crate) br_netfilter: bool,
    pub(crate) beside: Beside,
}

/// Traffic measured together: same circumstances, same cores, same number of flows.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) condition: Condition,
    /// Client and server share one, or have one each.
    pub(crate) cores: Cores,
    pub(crate) flows: u32,
    pub(crate) traffic: Vec<Traffic>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cores {
    One,
    Two,
}

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
}

impl Condition {
    /// Flannel's usual node on virtual machines.
    pub(crate) const USUAL: Self = Self {
        wire: Wire::Whole,
        br_netfilter: true,
        beside: Beside::Nothing,
    };

    fn new(wire: Wire, br_netfilter: bool) -> Self {
        Self {
            wire,
            br_netfilter,
            ..Self::USUAL
        }
    }

    pub(crate) fn name(self) -> String {
        let wire = match self.wire {
            Wire::Whole => "64 KiB wire",
            Wire::Segmented => "1500-byte wire",
        };
        let filter = if self.br_netfilter { "on" } else { "off" };
        let beside = match self.beside {
            Beside::Nothing => "",
            Beside::KubeProxy => ", kube-proxy's rules",
            Beside::Outside => ", to the outside",
            Beside::OutsideAndKubeProxy => ", to the outside, kube-proxy's rules",
        };
        format!("{wire}, br_netfilter {filter}{beside}")
    }
}

impl Group {
    pub(crate) fn name(&self) -> String {
        let cores = match self.cores {
            Cores::One => "one core",
            Cores::Two => "two cores",
        };
        let flows = match self.flows {
            1 => "1 flow".to_owned(),
            n => format!("{n} flows"),
        };
        format!("{}, {cores}, {flows}", self.condition.name())
    }

    /// Client's and server's.
    pub(crate) fn core_numbers(&self) -> (usize, usize) {
        match self.cores {
            // The last one: the first takes most interrupts.
            Cores::One => (1, 1),
            Cores::Two => (1, 0),
        }
    }
}

/// Everything, in an order that builds the nodes once per [`Beside`].
pub(crate) fn full() -> Vec<Group> {
    let group = |condition, cores, flows| Group {
        condition,
        cores,
        flows,
        traffic: Traffic::MEASURED.to_vec(),
    };
    let mut groups = Vec::new();
    for wire in [Wire::Whole, Wire::Segmented] {
        let usual = Condition::new(wire, true);
        groups.push(group(usual, Cores::One, 1));
        groups.push(group(usual, Cores::Two, 1));
        groups.push(group(Condition::new(wire, false), Cores::One, 1));
    }
    for cores in [Cores::One, Cores::Two] {
        for flows in [1_000, 100_000] {
            groups.push(group(Condition::USUAL, cores, flows));
        }
    }
    for wire in [Wire::Whole, Wire::Segmented] {
        let busy = Condition {
            beside: Beside::KubeProxy,
            ..Condition::new(wire, true)
        };
        groups.push(group(busy, Cores::One, 1));
    }
    groups.extend(outside::groups());
    groups
}

/// What the goals are about, on one core.
pub(crate) fn quick() -> Vec<Group> {
    let group = |wire, flows, traffic: &[Traffic]| Group {
        condition: Condition::new(wire, true),
        cores: Cores::One,
        flows,
        traffic: traffic.to_vec(),
    };
    let few = [Traffic::TcpRr, Traffic::UdpOneWay(64)];
    let bulk = [Traffic::TcpStream(1), Traffic::TcpStream(8)];
    vec![
        group(Wire::Whole, 1, &Traffic::MEASURED),
        group(Wire::Whole, 100_000, &few),
        group(Wire::Segmented, 1, &bulk),
    ]
}
