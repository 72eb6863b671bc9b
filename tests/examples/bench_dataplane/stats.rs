//! Medians, spread, and ratios within a round.

use crate::mode::Mode;
use crate::plan::Cores;
use crate::rounds::{Round, Series};
use crate::sample::Sample;

/// Of a few values: the middle one, and the quartiles around it.
#[derive(Debug, Clone, Copy)]
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
        let samples = self.rounds.iter().filter_map(|round| round.get(&mode));
        Spread::of(samples.map(number).collect())
    }

    /// The same of `mode` relative to `base`, round by round: what disturbed both cancels out.
    pub(crate) fn ratio(
        &self,
        mode: Mode,
        base: Mode,
        number: impl Fn(&Sample) -> f64,
    ) -> Option<Spread> {
        let ratio = |round: &Round| Some(number(round.get(&mode)?) / number(round.get(&base)?));
        Spread::of(self.rounds.iter().filter_map(ratio).collect())
    }

    /// How fast `mode` is relative to `base`: 2 is twice as fast, whatever the unit.
    pub(crate) fn speed(&self, mode: Mode, base: Mode) -> Option<Spread> {
        self.ratio(mode, base, |s| 1.0 / self.cost(s))
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
        let samples = self.rounds.iter().filter_map(|round| round.get(&mode));
        samples.map(number).sum()
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
