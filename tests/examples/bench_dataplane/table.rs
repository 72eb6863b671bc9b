//! The results as text.

use std::fmt::Write as _;

use crate::document::Document;
use crate::failure::short;
use crate::goals::{self, BASE, JUDGED};
use crate::mode::Mode;
use crate::programs::Cost;
use crate::rounds::Series;
use crate::stats::Spread;

const TRAFFIC: usize = 14;
const CELL: usize = 18;

/// One table a group: a row per traffic, a column per mode.
pub(crate) fn group(group: &[Series], modes: &[Mode]) -> String {
    let Some(first) = group.first() else {
        return String::new();
    };
    let modes = first.group.modes(modes);
    let others: Vec<Mode> = modes.iter().copied().filter(|m| *m != BASE).collect();
    let (name, rounds) = (first.group.name(), first.rounds.len());
    let mut text = format!("\n{name}; {rounds} rounds\n{:<TRAFFIC$}", "");
    for mode in std::iter::once(&BASE).chain(&others) {
        let _ = write!(text, "{:>CELL$}", mode.name());
    }
    text += "     of bare  goal\n";
    for series in group {
        row(&mut text, series, &others);
        notes(&mut text, series, &modes);
    }
    text
}

fn row(text: &mut String, series: &Series, others: &[Mode]) {
    let traffic = series.traffic;
    let _ = write!(text, "{:<TRAFFIC$}", traffic.name());
    let scaled = series.spread(BASE, |s| s.value * traffic.scale());
    let _ = write!(text, "{:>CELL$}", absolute(series, scaled, traffic.unit()));
    for mode in others {
        let ratio = series.ratio(*mode, BASE, |s| s.value);
        let _ = write!(text, "{:>CELL$}", cell(series, *mode, ratio));
    }
    let of_bare = series.speed(JUDGED, Mode::Bare);
    let of_bare = of_bare.map_or(String::new(), |s| format!("{:.2}", s.median));
    let verdict = goals::verdict(series);
    let verdict = verdict.map_or(String::new(), |v| format!("{} {}", v.goal, v.word()));
    let _ = writeln!(text, "{of_bare:>12}  {verdict}");

    let (scale, unit) = if traffic.is_rate() {
        (1e9, "s/GB")
    } else {
        (traffic.scale(), traffic.unit())
    };
    let base = series.spread(BASE, |s| s.cpu * scale);
    let _ = write!(text, "{:<TRAFFIC$}", "  CPU");
    let _ = write!(text, "{:>CELL$}", absolute(series, base, unit));
    for mode in others {
        let ratio = series.ratio(*mode, BASE, |s| s.cpu);
        let _ = write!(text, "{:>CELL$}", cell(series, *mode, ratio));
    }
    text.push('\n');
}

fn absolute(series: &Series, spread: Option<Spread>, unit: &str) -> String {
    match spread {
        Some(s) => format!("{:.2} {unit}", s.median),
        None if series.failed.contains_key(&BASE) => "failed".to_owned(),
        None => String::new(),
    }
}

/// Median and quartiles of a ratio.
fn cell(series: &Series, mode: Mode, ratio: Option<Spread>) -> String {
    match ratio {
        Some(s) => format!("{:.2} [{:.2} {:.2}]", s.median, s.low, s.high),
        None if series.failed.contains_key(&mode) => "failed".to_owned(),
        None => String::new(),
    }
}

/// Failure, loss and reordering, where there was any.
fn notes(text: &mut String, series: &Series, modes: &[Mode]) {
    for mode in modes {
        let mut notes = Vec::new();
        if let Some(why) = series.failed.get(mode) {
            notes.push(format!("failed: {}", short(why)));
        }
        if let Some(why) = series.again.get(mode) {
            notes.push(format!("a sample was taken again: {}", short(why)));
        }
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
            let _ = writeln!(text, "  {}: {}", mode.name(), notes.join(", "));
        }
    }
}

/// Nanoseconds a packet.
pub(crate) fn costs(title: &str, costs: &[Cost]) -> String {
    let mut text = format!("\n{title}\n");
    for cost in costs {
        let Cost {
            program,
            what,
            nanos,
        } = cost;
        let _ = writeln!(text, "{program:<16}{what:<34}{nanos:>8.0}");
    }
    text
}

/// What became of the goals, and what failed.
pub(crate) fn outcome(document: &Document) -> String {
    let (missed, of) = goals::missed(&document.series);
    let mut text = String::new();
    if of > 0 {
        text += &goal_lines(&document.series);
        let _ = writeln!(text, "{missed} of {of} goals are missed");
    }
    let failed = document.failed();
    if !failed.is_empty() {
        let _ = writeln!(text, "\n{} failed:", failed.len());
        for line in failed {
            let _ = writeln!(text, "  {}", short(&line));
        }
    }
    text
}

fn goal_lines(all: &[Series]) -> String {
    let mut text = format!(
        "\ngoals: {} as a ratio to {}\n{:<88}{:<16}{:>8}{:>18}{:>9}\n",
        JUDGED.name(),
        BASE.name(),
        "",
        "traffic",
        "goal",
        "reached",
        "of bare"
    );
    for series in all {
        for v in goals::verdicts(series) {
            let reached = cell(series, v.judged, Some(v.reached));
            let of_bare = v.of_bare.map_or(String::new(), |s| format!("{s:.2}"));
            let whose = v
                .whose()
                .map_or(String::new(), |whose| format!("  {whose}"));
            let _ = writeln!(
                text,
                "{:<88}{:<16}{:>8}{reached:>18}{of_bare:>9}  {}{whose}",
                series.group.name(),
                series.traffic.name(),
                v.goal.to_string(),
                v.word()
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{document, series};
    use crate::job::Traffic;

    #[test]
    fn a_row_has_a_cell_for_each_mode_and_a_verdict() {
        let series = series(
            Traffic::TcpRr,
            &[
                (Mode::Bare, &[4e-6, 4e-6]),
                (BASE, &[10e-6, 10e-6]),
                (JUDGED, &[5e-6, 5e-6]),
            ],
        );
        let text = group(&[series], &Mode::JUDGED);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].ends_with("one core, 1 flow; 2 rounds"), "{text}");
        let words: Vec<&str> = lines[2].split_whitespace().collect();
        assert_eq!(words[..3], ["kernel", "bare", "verified"]);
        let words: Vec<&str> = lines[3].split_whitespace().collect();
        assert_eq!(words[..3], ["tcp-rr", "10.00", "us"]);
        assert!(lines[3].contains("0.50 [0.50 0.50]"), "{text}");
        assert!(lines[3].ends_with("0.80  ≤ 0.62 met"), "{text}");
        assert!(text.contains("verified: 2 reordered"), "{text}");
    }

    #[test]
    fn a_failed_cell_says_so_and_why() {
        let mut series = series(Traffic::TcpRr, &[(BASE, &[1.0]), (Mode::Off, &[1.0])]);
        series
            .failed
            .insert(Mode::Off, "the server ended".to_owned());
        let text = group(&[series], &[BASE, Mode::Off]);
        assert!(
            text.contains("            failed\n") || text.contains("failed  "),
            "{text}"
        );
        assert!(text.contains("off: failed: the server ended"), "{text}");
    }

    #[test]
    fn the_outcome_lists_goals_and_failures() {
        let mut document = document();
        let text = outcome(&document);
        assert_eq!(text.matches("MISSED").count(), 9, "{text}");
        assert!(text.contains("9 of 60 goals are missed") && !text.contains("failed"));
        document.failures.push("programs: no memory".to_owned());
        assert!(outcome(&document).contains("1 failed:\n  programs: no memory"));
    }
}
