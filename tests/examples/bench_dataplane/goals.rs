//! What our default mode has to reach, as a ratio to flannel's kernel vxlan.

use flannel_tests::prelude::Wire;

use crate::job::Traffic;
use crate::mode::Mode;
use crate::outside;
use crate::plan::Cores;
use crate::rounds::Series;

/// The mode that the goals are for.
pub(crate) const JUDGED: Mode = Mode::Verified;
pub(crate) const BASE: Mode = Mode::Kernel;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    /// On one core; two are for information.
    pub(crate) fn of(series: &Series) -> Option<Self> {
        let group = &series.group;
        if group.cores != Cores::One {
            return None;
        }
        if group.condition.beside.is_outside() {
            return Some(outside::goal(series));
        }
        if group.flows >= 100_000 {
            return Some(if series.traffic.is_rate() {
                Self::AtLeast(1.0)
            } else {
                Self::AtMost(1.0)
            });
        }
        match (series.traffic, group.condition.wire) {
            (Traffic::TcpRr, _) => Some(Self::AtMost(0.62)),
            (Traffic::TcpCrr, _) => Some(Self::AtMost(0.68)),
            (Traffic::UdpOneWay(64), _) => Some(Self::AtMost(0.45)),
            (Traffic::TcpStream(1), Wire::Whole) => Some(Self::AtLeast(1.20)),
            (Traffic::TcpStream(1), Wire::Segmented) => Some(Self::AtLeast(1.05)),
            _ => None,
        }
    }

    pub(crate) fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(bound) => ratio <= bound,
            Self::AtLeast(bound) => ratio >= bound,
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "<={bound:.2}"),
            Self::AtLeast(bound) => write!(f, ">={bound:.2}"),
        }
    }
}

/// A goal and what became of it, by [`Series::cost`]; `None` where there is no goal or it was not measured.
pub(crate) fn verdict(series: &Series) -> Option<(Goal, bool)> {
    let goal = Goal::of(series)?;
    let ratio = if series.traffic.is_rate() {
        series.speed(JUDGED, BASE)
    } else {
        series.ratio(JUDGED, BASE, |s| series.cost(s))
    };
    Some((goal, goal.is_met(ratio?.median)))
}
