//! The results as text.

use crate::goals::{self, BASE, JUDGED};
use crate::mode::Mode;
use crate::rounds::Series;
use crate::stats::Spread;

const TRAFFIC: usize = 14;
const CELL: usize = 18;

/// One table a group: a row per traffic, a column per mode.
pub(crate) fn print(group: &[Series], modes: &[Mode]) {
    let Some(first) = group.first() else { return };
    println!("\n{}; {} rounds", first.group.name(), first.rounds.len());
    let others: Vec<Mode> = modes.iter().copied().filter(|m| *m != BASE).collect();
    print!("{:<TRAFFIC$}{:>CELL$}", "", BASE.name());
    for mode in &others {
        print!("{:>CELL$}", mode.name());
    }
    println!("{:>12}  goal", "of bare");
    for series in group {
        row(series, &others);
        notes(series, modes);
    }
}

fn row(series: &Series, others: &[Mode]) {
    let traffic = series.traffic;
    print!("{:<TRAFFIC$}", traffic.name());
    let scaled = series.spread(BASE, |s| s.value * traffic.scale());
    let text = scaled.map(|s| format!("{:.2} {}", s.median, traffic.unit()));
    print!("{:>CELL$}", text.unwrap_or_default());
    for mode in others {
        print!("{:>CELL$}", cell(series.ratio(*mode, BASE, |s| s.value)));
    }
    let of_bare = series.speed(JUDGED, Mode::Bare);
    print!(
        "{:>12}",
        of_bare.map_or(String::new(), |s| format!("{:.2}", s.median))
    );
    match goals::verdict(series) {
        Some((goal, true)) => println!("  {goal} met"),
        Some((goal, false)) => println!("  {goal} MISSED"),
        None => println!(),
    }
    print!("{:<TRAFFIC$}", "  CPU");
    let (scale, unit) = if traffic.is_rate() {
        (1e9, "s/GB")
    } else {
        (traffic.scale(), traffic.unit())
    };
    let base = series.spread(BASE, |s| s.cpu * scale);
    let text = base.map(|s| format!("{:.2} {unit}", s.median));
    print!("{:>CELL$}", text.unwrap_or_default());
    for mode in others {
        print!("{:>CELL$}", cell(series.ratio(*mode, BASE, |s| s.cpu)));
    }
    println!();
}

/// Median and quartiles of a ratio.
fn cell(ratio: Option<Spread>) -> String {
    ratio.map_or_else(String::new, |s| {
        format!("{:.2} [{:.2} {:.2}]", s.median, s.low, s.high)
    })
}

/// Loss and reordering, where there was any.
fn notes(series: &Series, modes: &[Mode]) {
    for mode in modes {
        let mut notes = Vec::new();
        let loss = series.spread(*mode, |s| s.loss).map_or(0.0, |s| s.median);
        if loss > 0.001 {
            notes.push(format!("{:.1} % lost", loss * 100.0));
        }
        for (what, count) in [
            ("reordered", series.total(*mode, |s| s.tcp.reordered)),
            ("out of order", series.total(*mode, |s| s.tcp.out_of_order)),
            (
                "retransmitted",
                series.total(*mode, |s| s.tcp.retransmitted),
            ),
        ] {
            if count > 0 {
                notes.push(format!("{count} {what}"));
            }
        }
        if !notes.is_empty() {
            println!("  {}: {}", mode.name(), notes.join(", "));
        }
    }
}
