//! The results as a page of the documentation.

use std::fmt::Write as _;

use crate::document::Document;
use crate::failure::short;
use crate::goals::{self, BASE, JUDGED};
use crate::job::Traffic;
use crate::mode::Mode;
use crate::outside;
use crate::plan::{Condition, Cores, Group};
use crate::rounds::Series;
use crate::words::{absolute, cell, heading, number, what, wire};

/// Markdown, for `docs/bench.md`.
pub(crate) fn text(document: &Document) -> String {
    let mut text = head(document);
    text += &goal_table(document);
    text += &dataplanes(document);
    text += &circumstances(document);
    text += &to_the_outside(document);
    text += &reordering(document);
    text += &costs(document);
    text += &failures(document);
    text
}

fn head(document: &Document) -> String {
    let effort = document.effort;
    let modes = Mode::ALL.map(|mode| format!("| `{}` | {} |\n", mode.name(), mode.help()));
    format!(
        "# Bench

Made by `cargo xtask bench dataplane --write-docs`, not by hand.

![Speed relative to kernel vxlan](bench.svg)

Measured on {}, in {:.0} minutes.

Two nodes are namespaces of one machine, joined by a veth pair; both share its cores, and flannel's kernel vxlan with its iptables
rules is measured beside. So only the ratios mean something, not the absolute times, and a real network card does part of the work that
is done here in software. Each round takes one sample of {} ms of every dataplane, in changing order; a ratio is that of two samples
of one round, and a number in a table is the median of the rounds ({}, at 100,000 flows at most 3). On one core, where one side or the other is
always busy, it is a ratio of CPU time; on two cores of time. A stream's reader comes before its writer, so that one and the same way of taking
turns is measured in every sample.

Cards with rings, and native XDP on them: [virtio.md](virtio.md).

| dataplane | |
|---|---|
{}
A veth copies every packet for XDP, which a card does not, so the column `xdp` says little about cards. It has no wire of 64 KiB: with XDP at
its peer, a veth takes nothing above its MTU.

**Times below 1 are good, speeds above 1 are good.**
",
        document.machine.describe(),
        document.seconds / 60.0,
        effort.time.as_millis(),
        effort.rounds,
        modes.concat()
    )
}

/// What was promised for the usual node, and what came of it.
fn goal_table(document: &Document) -> String {
    let (missed, of) = goals::missed(&document.series);
    let mut text = format!(
        "\n## Goals\n\n`{}` as a ratio to `{}`, where no others are named. Of all {of} goals on this page, **{} are met and {missed} missed** (**bold** below).\n\
         Speed as a fraction of host to host is to be 0.9 or more; it is an aim, not a goal.\n\n",
        JUDGED.name(),
        BASE.name(),
        of - missed
    );
    text += "| traffic | wire | live flows | goal | measured | quartiles | fraction of bare | |\n";
    text += "|---|---|---|---|---|---|---|---|\n";
    for series in &document.series {
        let group = &series.group;
        let usual = group.condition == Condition::USUAL
            || group.condition == Condition::SEGMENTED && group.flows == 1;
        if !usual || group.flows == 1_000 {
            continue;
        }
        for v in goals::verdicts(series) {
            let whose = v
                .whose()
                .map_or(String::new(), |whose| format!(", {whose}"));
            let wire = wire(group.condition.wire);
            let of_bare = v.of_bare.map_or("–".to_owned(), |s| format!("{s:.2}"));
            let verdict = if v.is_met() { "met" } else { "**missed**" };
            let _ = writeln!(
                text,
                "| {}{whose} | {wire} | {} | {} | {:.2} | {:.2}–{:.2} | {of_bare} | {verdict} |",
                what(series),
                number(group.flows),
                v.goal,
                v.reached.median,
                v.reached.low,
                v.reached.high
            );
        }
    }
    text
}

/// One core, one flow: all modes.
fn dataplanes(document: &Document) -> String {
    let mut text =
        "\n## Dataplanes\n\nAs a ratio to `kernel`; br_netfilter on, one core, one flow.\n"
            .to_owned();
    for condition in [Condition::USUAL, Condition::SEGMENTED] {
        let rows = in_group(document, |g| {
            g.condition == condition && g.cores == Cores::One && g.flows == 1
        });
        let modes = Mode::ALL.into_iter().filter(|mode| {
            *mode != BASE && mode.fits(condition) && rows.iter().any(|s| s.has(*mode))
        });
        let modes: Vec<Mode> = modes.collect();
        if rows.is_empty() {
            continue;
        }
        let names = modes.iter().map(|mode| format!("`{}` |", mode.name()));
        let names: Vec<String> = names.collect();
        let _ = writeln!(
            text,
            "\n| {} wire | `{}` | {}\n|---|---|{}",
            wire(condition.wire),
            BASE.name(),
            names.join(" "),
            "---|".repeat(modes.len())
        );
        for series in rows {
            let _ = write!(text, "| {} | {} |", what(series), absolute(series));
            for mode in &modes {
                let _ = write!(text, " {} |", cell(series, *mode));
            }
            text.push('\n');
        }
    }
    text
}

/// What is between pods, our default only.
fn circumstances(document: &Document) -> String {
    let title = format!(
        "\n## Circumstances\n\n`{}` as a ratio to `{}`, and in brackets its speed as a fraction of `bare`.\n\n",
        JUDGED.name(),
        BASE.name()
    );
    matrix(document, &title, &Traffic::MEASURED, |g| {
        !g.condition.beside.is_outside()
    })
}

fn to_the_outside(document: &Document) -> String {
    let title = "\n## To the outside\n\nA pod to a server outside the cluster: our source NAT as a ratio to iptables' MASQUERADE `--random-fully`; \
                 ≤ 0.75 is the goal of the first two columns, no worse than 1 that of the others.\n\n";
    matrix(document, title, &outside::TRAFFIC, |g| {
        g.condition.beside.is_outside()
    })
}

/// A row a group, a column a traffic.
fn matrix(
    document: &Document,
    title: &str,
    traffic: &[Traffic],
    wanted: impl Fn(&Group) -> bool,
) -> String {
    let all = in_group(document, wanted);
    if all.is_empty() {
        return String::new();
    }
    let heads = traffic.iter().map(|t| format!(" {} |", heading(*t)));
    let mut text = format!(
        "{title}| |{}\n|---|{}\n",
        heads.collect::<String>(),
        "---|".repeat(traffic.len())
    );
    for rows in all.chunk_by(|a, b| a.group == b.group) {
        let group = &rows[0].group;
        let cores = if group.cores == Cores::One {
            ""
        } else {
            ", two cores"
        };
        let flows = match group.flows {
            1 => String::new(),
            flows => format!(", {} flows", number(flows)),
        };
        let _ = write!(text, "| {}{cores}{flows} |", group.condition.name());
        for traffic in traffic {
            let series = rows.iter().find(|s| s.traffic == *traffic);
            let cell = series.map_or("–".to_owned(), |series| judged(series));
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    text
}

fn judged(series: &Series) -> String {
    let cell = cell(series, JUDGED);
    match series.speed(JUDGED, Mode::Bare) {
        Some(of_bare) => format!("{cell} ({:.2})", of_bare.median),
        None => cell,
    }
}

/// Segments that overtook one another: what a dataplane with two ways may do.
fn reordering(document: &Document) -> String {
    let rows = in_group(document, |g| !g.condition.beside.is_outside());
    let mut text = "\n## TCP reordering\n\nOver all samples between pods, as the kernels of both sides count it.\n\n\
                    | dataplane | reordering seen by senders | segments out of order | retransmitted | GB sent |\n|---|---|---|---|---|\n"
        .to_owned();
    for mode in Mode::ALL {
        if !rows.iter().any(|s| s.has(mode)) {
            continue;
        }
        let sum = |number: fn(&crate::job::TcpCounters) -> u64| -> u64 {
            rows.iter().map(|s| s.total(mode, |s| number(&s.tcp))).sum()
        };
        let gigabytes: f64 = rows
            .iter()
            .map(|s| s.gigabytes(mode, document.effort))
            .sum();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} | {gigabytes:.0} |",
            mode.name(),
            sum(|t| t.reordered),
            sum(|t| t.out_of_order),
            sum(|t| t.retransmitted)
        );
    }
    text
}

fn costs(document: &Document) -> String {
    let mut text = String::new();
    if !document.programs.is_empty() {
        text += "\nOne packet in each program by `BPF_PROG_TEST_RUN`, the call itself taken off.\n\n| program | path | ns |\n|---|---|---|\n";
    }
    for cost in &document.programs {
        let (program, what, nanos) = (&cost.program, &cost.what, cost.nanos);
        let _ = writeln!(text, "| `{program}` | {what} | {nanos:.0} |");
    }
    if !document.in_traffic.is_empty() {
        text += "\nIn traffic, nanoseconds a run as the kernel accounts for them (with some 20 ns for the account), both nodes; wire of 1500 bytes \
                 (to the outside: 64 KiB), one core.\n\n| dataplane, traffic | programs |\n|---|---|\n";
    }
    for costs in document.in_traffic.chunk_by(|a, b| a.what == b.what) {
        let programs = costs
            .iter()
            .map(|c| format!("`{}` {:.0}", c.program, c.nanos));
        let programs: Vec<String> = programs.collect();
        let _ = writeln!(text, "| {} | {} |", costs[0].what, programs.join(", "));
    }
    if text.is_empty() {
        return text;
    }
    format!("\n## Programs\n{text}")
}

fn failures(document: &Document) -> String {
    let mut text = String::new();
    for (title, lines) in [
        ("Not measured", document.failed()),
        ("Failed once, then measured", document.again()),
    ] {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n## {title}\n");
        }
        for line in lines {
            let _ = writeln!(text, "* {}", short(&line));
        }
    }
    text
}

fn in_group(document: &Document, wanted: impl Fn(&Group) -> bool) -> Vec<&Series> {
    let all = document.series.iter();
    all.filter(|series| wanted(&series.group)).collect()
}

impl Series {
    /// Whether there is anything to say of a mode.
    fn has(&self, mode: Mode) -> bool {
        self.failed.contains_key(&mode) || self.spread(mode, |s| s.value).is_some()
    }

    /// Streams only: what went over the wire while it was measured.
    fn gigabytes(&self, mode: Mode, effort: crate::plan::Effort) -> f64 {
        let samples = self.rounds.iter().filter_map(|round| round.get(&mode));
        let rate: f64 = samples.map(|s| s.value).sum();
        if self.traffic.is_rate() && !self.failed.contains_key(&mode) {
            rate * effort.time.as_secs_f64() * 1e-9
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::document;

    /// Every table has as many cells in each row as in its head.
    fn assert_tables(text: &str) {
        let mut width = None;
        for line in text.lines() {
            if !line.starts_with('|') {
                width = None;
                continue;
            }
            let cells = line.matches('|').count();
            assert_eq!(*width.get_or_insert(cells), cells, "{line}");
            assert!(line.ends_with('|'), "{line}");
        }
    }

    #[test]
    fn the_page_says_what_was_measured_on_what_and_what_is_missed() {
        let text = text(&document());
        assert_tables(&text);
        for said in [
            "virtual machine (a fast one) with 2 cores, Linux 6.18.5, release build",
            "51 are met and 9 missed",
            "| UDP one way, 64 B: time | 64 KiB | 1 | ≤ 0.45 | 1.00 | 1.00–1.00 | 1.00 | **missed** |",
            "| TCP stream: speed | 1500 bytes | 1 | ≥ 1.05 | 2.00 | 2.00–2.00 | 1.00 | met |",
            "| TCP request, response: time | 64 KiB | 100,000 |",
            "| 64 KiB wire, br_netfilter off, two cores |",
            "kube-proxy's rules",
            "| `pod_tx` | proven, encapsulate | 123 |",
            "| verified, tcp-rr | `pod_tx` 123 |",
            "A veth copies every packet for XDP",
        ] {
            assert!(text.contains(said), "{said} is not in\n{text}");
        }
        assert!(!text.contains("Not measured"));
        assert!(text.len() < 16_000, "short: {}", text.len());
    }

    #[test]
    fn the_page_is_made_of_whatever_was_measured() {
        let mut document = document();
        let why = "no time was left".to_owned();
        document.series[0].failed.insert(JUDGED, why.clone());
        document.series.truncate(9);
        document.programs.clear();
        document.in_traffic.clear();
        let text = text(&document);
        assert_tables(&text);
        assert!(text.contains("## Not measured") && text.contains(&why));
        assert!(text.contains("| failed |"), "{text}");
        assert!(!text.contains("## To the outside") && !text.contains("## Programs"));
        document.series.clear();
        assert_tables(&super::text(&document));
    }
}
