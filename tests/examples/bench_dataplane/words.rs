//! Cells and headings of the page's tables.

use flannel_tests::prelude::Wire;

use crate::goals::{self, BASE};
use crate::job::Traffic;
use crate::mode::Mode;
use crate::rounds::Series;

/// A ratio to the kernel; bold where it misses a goal.
pub(crate) fn cell(series: &Series, mode: Mode) -> String {
    let Some(ratio) = series.compared(mode, BASE) else {
        let failed = series.failed.contains_key(&mode) || series.failed.contains_key(&BASE);
        return if failed { "failed" } else { "–" }.to_owned();
    };
    let number = format!("{:.2}", ratio.median);
    let missed = goals::verdicts(series).any(|v| v.judged == mode && v.base == BASE && !v.is_met());
    if missed {
        format!("**{number}**")
    } else {
        number
    }
}

pub(crate) fn absolute(series: &Series) -> String {
    let traffic = series.traffic;
    let value = series.spread(BASE, |s| s.value * traffic.scale());
    let unit = traffic.unit().replace("us", "µs");
    value.map_or("failed".to_owned(), |v| {
        format!("{} {unit}", digits(v.median))
    })
}

/// Three that count.
fn digits(value: f64) -> String {
    match value {
        10.0..100.0 => format!("{value:.1}"),
        100.0.. => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

pub(crate) fn what(series: &Series) -> String {
    heading(series.traffic)
}

pub(crate) fn heading(traffic: Traffic) -> String {
    let kind = if traffic.is_rate() { "speed" } else { "time" };
    format!("{}: {kind}", traffic.label())
}

pub(crate) fn wire(wire: Wire) -> &'static str {
    match wire {
        Wire::Whole => "64 KiB",
        Wire::Segmented => "1500 bytes",
    }
}

/// With thousands set off.
pub(crate) fn number(n: u32) -> String {
    if n < 1_000 {
        return n.to_string();
    }
    format!("{},{:03}", n / 1_000, n % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_three_digits() {
        assert_eq!(digits(1.468), "1.47");
        assert_eq!(digits(46.72), "46.7");
        assert_eq!(digits(18_789.4), "18789");
    }

    #[test]
    fn numbers_have_their_thousands_set_off() {
        assert_eq!(number(1), "1");
        assert_eq!(number(1_000), "1,000");
        assert_eq!(number(100_000), "100,000");
    }
}
