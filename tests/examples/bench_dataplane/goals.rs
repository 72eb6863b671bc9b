//! What our default mode has to reach, as a ratio to flannel's kernel vxlan.

use flannel_tests::prelude::Wire;

use crate::job::Traffic;
use crate::mode::Mode;
use crate::outside;
use crate::plan::Cores;
use crate::rounds::Series;
use crate::stats::Spread;
use crate::topology::Beside;

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
        // Never fast: for information.
        if group.condition.beside == Beside::Translated {
            return None;
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

    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(bound) => ratio <= bound,
            Self::AtLeast(bound) => ratio >= bound,
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "≤ {bound:.2}"),
            Self::AtLeast(bound) => write!(f, "≥ {bound:.2}"),
        }
    }
}

/// A goal and what became of it, by [`Series::compared`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict {
    pub(crate) judged: Mode,
    pub(crate) base: Mode,
    pub(crate) goal: Goal,
    pub(crate) reached: Spread,
    /// Speed as a part of that from host to host.
    pub(crate) of_bare: Option<f64>,
}

impl Verdict {
    pub(crate) fn is_met(self) -> bool {
        self.goal.is_met(self.reached.median)
    }

    /// Whose goal it is where it is not our default's.
    pub(crate) fn whose(self) -> Option<String> {
        let is_usual = (self.judged, self.base) == (JUDGED, BASE);
        (!is_usual).then(|| format!("{} to {}", self.judged.name(), self.base.name()))
    }

    pub(crate) fn word(self) -> &'static str {
        if self.is_met() { "met" } else { "MISSED" }
    }
}

/// `None` where there is no goal or it was not measured.
pub(crate) fn verdict(series: &Series) -> Option<Verdict> {
    judge(series, JUDGED, BASE, Goal::of(series)?)
}

/// Of the backend udp, beside real flanneld's proxy and, as flannel's faster way, its kernel vxlan.
pub(crate) fn udp_verdict(series: &Series) -> Option<Verdict> {
    let (base, goal) = match series.traffic {
        Traffic::UdpOneWay(64) => (Mode::FlanneldUdp, Goal::AtMost(0.1)),
        Traffic::TcpRr => (BASE, Goal::AtMost(0.65)),
        _ => return None,
    };
    judge(series, Mode::Udp, base, goal)
}

fn judge(series: &Series, judged: Mode, base: Mode, goal: Goal) -> Option<Verdict> {
    Some(Verdict {
        judged,
        base,
        goal,
        reached: series.compared(judged, base)?,
        of_bare: series.speed(judged, Mode::Bare).map(|s| s.median),
    })
}

/// Every goal of a row that was measured.
pub(crate) fn verdicts(series: &Series) -> impl Iterator<Item = Verdict> {
    [verdict(series), udp_verdict(series)].into_iter().flatten()
}

/// Goals missed, of how many.
pub(crate) fn missed(all: &[Series]) -> (usize, usize) {
    let verdicts: Vec<Verdict> = all.iter().flat_map(verdicts).collect();
    let missed = verdicts.iter().filter(|v| !v.is_met()).count();
    (missed, verdicts.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{document, same, series};

    #[test]
    fn a_time_must_not_be_longer_and_a_speed_not_lower() {
        let judge = |traffic, cost: f64| {
            let series = series(traffic, &[(BASE, &[1.0]), (JUDGED, &[cost])]);
            verdict(&series).map(Verdict::is_met)
        };
        assert_eq!(judge(Traffic::TcpRr, 0.62), Some(true));
        assert_eq!(judge(Traffic::TcpRr, 0.63), Some(false));
        assert_eq!(judge(Traffic::TcpStream(1), 1.0 / 1.21), Some(true));
        assert_eq!(judge(Traffic::TcpStream(1), 1.0 / 1.19), Some(false));
        assert_eq!(judge(Traffic::TcpStream(8), 9.0), None, "no goal");
    }

    #[test]
    fn a_goal_that_was_not_measured_is_neither_met_nor_missed() {
        let mut series = series(Traffic::TcpRr, &[(BASE, &[1.0]), (JUDGED, &[0.5])]);
        assert!(verdict(&series).is_some());
        series.failed.insert(BASE, "gone".to_owned());
        assert!(verdict(&series).is_none());
    }

    #[test]
    fn every_goal_is_judged_in_every_place_it_is_for() {
        let all = document().series;
        let (missed, of) = missed(&all);
        // Seven places with one or 1,000 flows, four goals each; eight kinds of traffic at 100,000; twenty outside; two
        // of the backend udp on two wires.
        assert_eq!(of, 7 * 4 + 8 + 20 + 2 * 2);
        // UDP of 64 bytes is as fast as the kernel's and as flanneld's: enough at 100,000 flows, nowhere else.
        assert_eq!(missed, 7 + 2);
        let udp = all.iter().find(|s| s.traffic == Traffic::UdpOneWay(64));
        let verdict = verdict(udp.unwrap()).unwrap();
        assert_eq!(verdict.word(), "MISSED");
        assert_eq!(verdict.goal.to_string(), "≤ 0.45");
        same(verdict.reached.median, 1.0);
        same(verdict.of_bare.unwrap(), 1.0);
    }
}
