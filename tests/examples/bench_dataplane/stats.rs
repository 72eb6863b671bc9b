//! Medians, spread, and ratios within a round.

use serde::Serialize;

use crate::mode::Mode;
use crate::plan::Cores;
use crate::rounds::{Round, Series};
use crate::sample::Sample;

/// Of a few values: the middle one, and the quartiles around it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|v| v.is_finite());
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&values, 0.5)?,
            low: quantile(&values, 0.25)?,
            high: quantile(&values, 0.75)?,
        })
    }
}

impl Series {
    /// Some number of the samples of `mode`.
    pub(crate) fn spread(&self, mode: Mode, number: impl Fn(&Sample) -> f64) -> Option<Spread> {
        Spread::of(self.samples(mode).map(number).collect())
    }

    fn samples(&self, mode: Mode) -> impl Iterator<Item = &Sample> {
        self.rounds
            .iter()
            .filter_map(move |round| self.sample(round, mode))
    }

    /// None of a mode that failed, even if it had worked before.
    fn sample<'a>(&self, round: &'a Round, mode: Mode) -> Option<&'a Sample> {
        if self.failed.contains_key(&mode) {
            return None;
        }
        round.get(&mode)
    }

    /// The same of `mode` relative to `base`, round by round: what disturbed both cancels out.
    pub(crate) fn ratio(
        &self,
        mode: Mode,
        base: Mode,
        number: impl Fn(&Sample) -> f64,
    ) -> Option<Spread> {
        let ratio = |round: &Round| {
            Some(number(self.sample(round, mode)?) / number(self.sample(round, base)?))
        };
        Spread::of(self.rounds.iter().filter_map(ratio).collect())
    }

    /// How fast `mode` is relative to `base`: 2 is twice as fast, whatever the unit.
    pub(crate) fn speed(&self, mode: Mode, base: Mode) -> Option<Spread> {
        self.ratio(mode, base, |s| 1.0 / self.cost(s))
    }

    /// As goals and tables have it: speed for what is a rate, time for the rest.
    pub(crate) fn compared(&self, mode: Mode, base: Mode) -> Option<Spread> {
        if self.traffic.is_rate() {
            self.speed(mode, base)
        } else {
            self.ratio(mode, base, |s| self.cost(s))
        }
    }

    /// Seconds a unit. One core is busy all the time with one side or the other, so CPU time is time, except
    /// that what else the machine does is not counted.
    pub(crate) fn cost(&self, sample: &Sample) -> f64 {
        match self.group.cores {
            Cores::One => sample.cpu,
            Cores::Two if self.traffic.is_rate() => 1.0 / sample.value,
            Cores::Two => sample.value,
        }
    }

    /// Sum over all rounds.
    pub(crate) fn total(&self, mode: Mode, number: impl Fn(&Sample) -> u64) -> u64 {
        self.samples(mode).map(number).sum()
    }
}

/// Linear between the two nearest ranks.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank between 0 and the number of values"
    )]
    let (rank, below) = {
        let rank = last as f64 * q;
        (rank, rank as usize)
    };
    let above = (below + 1).min(last);
    Some(sorted[below] + (sorted[above] - sorted[below]) * rank.fract())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{same, series};
    use crate::job::Traffic;

    #[test]
    fn quantiles_lie_between_ranks() {
        let values = [1.0, 2.0, 4.0, 8.0];
        for (q, want) in [(0.0, 1.0), (0.25, 1.75), (0.5, 3.0), (1.0, 8.0)] {
            same(quantile(&values, q).unwrap(), want);
        }
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn a_spread_leaves_out_what_is_no_number() {
        let spread = Spread::of(vec![3.0, f64::NAN, 1.0, f64::INFINITY, 2.0]).unwrap();
        same(spread.median, 2.0);
        same(spread.low, 1.5);
        same(spread.high, 2.5);
        assert_eq!(Spread::of(vec![f64::NAN]), None);
    }

    /// A round in which everything took thrice the time is like the others.
    #[test]
    fn ratios_are_of_one_round() {
        let series = series(
            Traffic::TcpRr,
            &[
                (Mode::Kernel, &[10.0, 30.0, 10.0]),
                (Mode::Verified, &[5.0, 15.0, 4.0]),
            ],
        );
        let ratio = series.compared(Mode::Verified, Mode::Kernel).unwrap();
        same(ratio.median, 0.5);
        let speed = series.speed(Mode::Verified, Mode::Kernel).unwrap();
        same(speed.median, 2.0);
        assert_eq!(series.compared(Mode::Verified, Mode::Bare), None);
    }

    #[test]
    fn a_rate_is_compared_by_speed() {
        let series = series(
            Traffic::TcpStream(1),
            &[(Mode::Kernel, &[3.0]), (Mode::Verified, &[2.0])],
        );
        let speed = series.compared(Mode::Verified, Mode::Kernel).unwrap();
        same(speed.median, 1.5);
    }

    #[test]
    fn what_a_failed_mode_reached_before_does_not_count() {
        let mut series = series(
            Traffic::TcpRr,
            &[(Mode::Kernel, &[1.0]), (Mode::Off, &[2.0])],
        );
        series.failed.insert(Mode::Off, "it hung".to_owned());
        assert_eq!(series.spread(Mode::Off, |s| s.value), None);
        assert_eq!(series.compared(Mode::Off, Mode::Kernel), None);
        assert_eq!(series.total(Mode::Off, |s| s.tcp.reordered), 0);
    }
}
