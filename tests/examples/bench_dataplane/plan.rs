//! What is measured under which circumstances.

use std::time::Duration;

use flannel_tests::prelude::Wire;
use serde::{Deserialize, Serialize};

use crate::job::Traffic;
use crate::mode::Mode;
use crate::outside;
use crate::topology::Beside;

/// Circumstances of the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Condition {
    #[serde(with = "WireName")]
    pub(crate) wire: Wire,
    pub(crate) br_netfilter: bool,
    pub(crate) beside: Beside,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Wire")]
enum WireName {
    Whole,
    Segmented,
}

/// Traffic measured together: same circumstances, same cores, same number of flows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) condition: Condition,
    /// Client and server share one, or have one each.
    pub(crate) cores: Cores,
    pub(crate) flows: u32,
    pub(crate) traffic: Vec<Traffic>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Cores {
    One,
    Two,
}

/// How long and how often.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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

    /// The same on a cable: packets are merged on arrival.
    pub(crate) const SEGMENTED: Self = Self {
        wire: Wire::Segmented,
        ..Self::USUAL
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
            Beside::Translated => ", translated by the server's node",
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

    /// Those of `modes` that are measured in it.
    pub(crate) fn modes(&self, modes: &[Mode]) -> Vec<Mode> {
        let modes = modes.iter().copied();
        modes.filter(|mode| self.admits(*mode)).collect()
    }

    pub(crate) fn admits(&self, mode: Mode) -> bool {
        let is_one = self.cores == Cores::One && self.flows == 1;
        mode.fits(self.condition) && (is_one || !mode.is_udp())
    }

    /// Rounds for it: with many flows most of the time goes into making them live.
    pub(crate) fn rounds(&self, effort: Effort) -> usize {
        if self.flows >= 100_000 {
            effort.rounds.min(LEAST_ROUNDS)
        } else {
            effort.rounds
        }
    }

    /// What it takes on a machine with nothing else to do.
    pub(crate) fn expected(&self, modes: &[Mode], effort: Effort) -> Duration {
        let modes = u32::try_from(self.modes(modes).len()).unwrap_or(u32::MAX);
        let rounds = u32::try_from(self.rounds(effort)).unwrap_or(u32::MAX);
        let kinds = u32::try_from(self.traffic.len()).unwrap_or(u32::MAX);
        let turn = (effort.warm_up + effort.time + BETWEEN) * kinds + self.fill();
        SETTING * modes + turn * modes * rounds
    }

    fn fill(&self) -> Duration {
        match self.flows {
            1 => Duration::ZERO,
            flows => FLOW * flows,
        }
    }
}

/// A median of fewer says little about its spread.
pub(crate) const LEAST_ROUNDS: usize = 3;
/// From the end of one sample to the begin of the next.
const BETWEEN: Duration = Duration::from_millis(50);
/// Switching a mode's nodes to other circumstances.
const SETTING: Duration = Duration::from_millis(250);
/// Making one flow live, and forgetting it.
const FLOW: Duration = Duration::from_micros(35);
/// Nodes, agents and pods of one mode.
pub(crate) const BUILD: Duration = Duration::from_millis(1200);

/// What tells of flows that are never fast.
const TRANSLATED: [Traffic; 3] = [Traffic::TcpRr, Traffic::TcpStream(1), Traffic::TcpStream(8)];

/// Everything, in an order that builds the nodes once per [`Beside`].
pub(crate) fn full() -> Vec<Group> {
    let group = |condition, cores, flows| Group {
        condition,
        cores,
        flows,
        traffic: Traffic::MEASURED.to_vec(),
    };
    let wires = [Wire::Whole, Wire::Segmented];
    let mut groups = Vec::new();
    for wire in wires {
        for br_netfilter in [true, false] {
            for cores in [Cores::One, Cores::Two] {
                groups.push(group(Condition::new(wire, br_netfilter), cores, 1));
            }
        }
    }
    for cores in [Cores::One, Cores::Two] {
        for flows in [1_000, 100_000] {
            groups.push(group(Condition::USUAL, cores, flows));
        }
    }
    for wire in wires {
        let busy = Condition {
            beside: Beside::KubeProxy,
            ..Condition::new(wire, true)
        };
        groups.push(group(busy, Cores::One, 1));
    }
    for wire in wires {
        let condition = Condition {
            beside: Beside::Translated,
            ..Condition::new(wire, true)
        };
        groups.push(Group {
            traffic: TRANSLATED.to_vec(),
            ..group(condition, Cores::One, 1)
        });
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
        group(Wire::Segmented, 1, &bulk),
        group(Wire::Whole, 100_000, &few),
        outside::quick(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_asked_for_is_measured() {
        let groups = full();
        let pods: Vec<&Group> = groups
            .iter()
            .filter(|g| g.condition.beside == Beside::Nothing)
            .collect();
        for wire in [Wire::Whole, Wire::Segmented] {
            for br_netfilter in [true, false] {
                for cores in [Cores::One, Cores::Two] {
                    let wanted = Condition::new(wire, br_netfilter);
                    let is_it = |g: &&&Group| g.condition == wanted && g.cores == cores;
                    assert_eq!(
                        pods.iter().filter(is_it).filter(|g| g.flows == 1).count(),
                        1
                    );
                }
            }
        }
        for flows in [1, 1_000, 100_000] {
            assert!(pods.iter().any(|g| g.flows == flows));
        }
        let measured = |mode: Mode| pods.iter().any(|g| mode.fits(g.condition));
        assert!(Mode::ALL.into_iter().all(measured));
    }

    /// A lab builds its nodes again for each of these runs of groups.
    #[test]
    fn groups_with_the_same_nodes_follow_one_another() {
        for groups in [full(), quick()] {
            let mut seen = Vec::new();
            for run in groups.chunk_by(|a, b| a.condition.beside == b.condition.beside) {
                assert!(!seen.contains(&run[0].condition.beside));
                seen.push(run[0].condition.beside);
            }
        }
    }

    #[test]
    fn many_flows_and_many_modes_take_longer() {
        let effort = Effort {
            rounds: 5,
            warm_up: Duration::from_millis(20),
            time: Duration::from_millis(150),
        };
        let [one, .., many] = &full()[..10] else {
            panic!("at least ten groups")
        };
        assert!(many.flows > one.flows);
        assert!(many.fill() > one.fill());
        assert!(one.expected(&Mode::JUDGED, effort) < one.expected(&Mode::ALL, effort));
        assert_eq!((one.rounds(effort), many.rounds(effort)), (5, 3));
    }
}
