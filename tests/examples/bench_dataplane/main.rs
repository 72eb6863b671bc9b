//! `cargo xtask bench dataplane`: traffic between two pods on two nodes, through each dataplane in turn.
//!
//! Only ratios mean something: the "wire" is a veth pair, and both nodes share the machine's cores.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "as in the tests' library: what fails here is to fail loudly"
)]

mod goals;
mod host_gw;
mod job;
mod json;
mod live;
mod mode;
mod outside;
mod plan;
mod plot;
mod programs;
mod remote;
mod rounds;
mod sample;
mod stats;
mod table;
mod topology;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use flannel_tests::iptables::Iptables;
use flannel_tests::prelude::*;
use flannel_tests::supervise;

use mode::Mode;
use plan::{Effort, Group};
use rounds::Series;
use topology::Stage;
use worker::Role;

/// Dataplane: what a transaction, a packet and a byte cost, beside flannel's kernel vxlan
#[derive(Debug, Parser)]
struct Options {
    /// Under two minutes: the goals only, on one core
    #[arg(long)]
    quick: bool,
    /// Rounds; every mode gets one sample in each [default: 9, quick: 5]
    #[arg(long)]
    rounds: Option<usize>,
    /// Length of one sample in milliseconds [default: 400, quick: 200]
    #[arg(long, value_name = "MS")]
    time: Option<u64>,
    /// Only groups or traffic whose name contains one of these, such as `tcp-rr` or `two cores`; repeatable
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// The dataplanes [default: all, quick: bare, kernel, verified]
    #[arg(long, value_enum, value_delimiter = ',')]
    modes: Vec<Mode>,
    /// Which kind of iptables writes flannel's rules
    #[arg(long, value_enum, default_value = "nft")]
    iptables: Variant,
    /// Where the numbers go as JSON; a picture goes beside it
    #[arg(long, default_value = "bench-results/dataplane.json")]
    out: PathBuf,
    /// Fail when a goal is missed
    #[arg(long)]
    enforce: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Variant {
    Nft,
    Legacy,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Only what each program costs on its own
    Programs,
    /// One side of the traffic, inside its pod
    #[command(hide = true)]
    Worker { role: Role },
}

impl Options {
    fn effort(&self) -> Effort {
        let (rounds, time) = if self.quick { (5, 200) } else { (9, 400) };
        let time = Duration::from_millis(self.time.unwrap_or(time));
        Effort {
            rounds: self.rounds.unwrap_or(rounds),
            warm_up: time / 8,
            time,
        }
    }

    fn modes(&self) -> Vec<Mode> {
        match (&self.modes[..], self.quick) {
            ([], true) => Mode::QUICK.to_vec(),
            ([], false) => Mode::ALL.to_vec(),
            (some, _) => some.to_vec(),
        }
    }

    fn groups(&self) -> Vec<Group> {
        let mut groups = if self.quick {
            plan::quick()
        } else {
            plan::full()
        };
        if !self.only.is_empty() {
            let wanted = |name: &str| self.only.iter().any(|only| name.contains(only.as_str()));
            let named = groups.iter().any(|g| wanted(&g.name()));
            let traffic = groups.iter().flat_map(|g| &g.traffic);
            let chosen = traffic.into_iter().any(|t| wanted(&t.name()));
            if named {
                groups.retain(|g| wanted(&g.name()));
            }
            if chosen {
                for group in &mut groups {
                    group.traffic.retain(|t| wanted(&t.name()));
                }
                groups.retain(|g| !g.traffic.is_empty());
            }
            assert!(
                named || chosen,
                "nothing is called like any of {:?}",
                self.only
            );
        }
        groups
    }
}

fn main() -> ExitCode {
    // Before the child is started, so that a wrong flag is reported once.
    let options = Options::parse();
    match options.part {
        Some(Part::Worker { role }) => {
            worker::run(role);
            return ExitCode::SUCCESS;
        }
        Some(Part::Programs) => {
            return supervise::run(|| programs_alone(&options));
        }
        None => {}
    }
    supervise::run(|| bench(&options))
}

/// Each program alone, and in traffic on the wire where it counts most.
fn programs_alone(options: &Options) -> ExitCode {
    programs::print(&programs::measure());
    let lab = Lab::new();
    let condition = plan::Condition {
        wire: Wire::Segmented,
        ..plan::Condition::USUAL
    };
    for mode in options.modes() {
        if mode.flags().is_some() {
            let iptables = options.iptables.into();
            let mut stage = Stage::build(&lab, mode, condition.beside, iptables);
            println!("\n{}", mode.name());
            live::print(&live::measure(&mut stage, condition));
        }
    }
    ExitCode::SUCCESS
}

fn bench(options: &Options) -> ExitCode {
    let (groups, modes, effort) = (options.groups(), options.modes(), options.effort());
    let start = Instant::now();
    let mut all: Vec<Series> = Vec::new();
    // Nodes are built once for all groups that need the same.
    for groups in groups.chunk_by(|a, b| a.condition.beside == b.condition.beside) {
        let lab = Lab::new();
        let outside = groups[0].condition.beside.is_outside();
        let mut modes = modes.clone();
        modes.retain(|mode| !outside || outside::MODES.contains(mode));
        let mut stages: Vec<Stage> = modes
            .iter()
            .map(|mode| {
                let iptables = options.iptables.into();
                Stage::build(&lab, *mode, groups[0].condition.beside, iptables)
            })
            .collect();
        for group in groups {
            let series = rounds::measure(&mut stages, group, effort);
            table::print(&series, &modes);
            all.extend(series);
        }
    }
    let costs = programs::measure();
    programs::print(&costs);
    json::write(&options.out, &all, &modes, &programs::json(&costs));
    let picture = options.out.with_extension("svg");
    plot::write(&picture, &all, &modes)
        .unwrap_or_else(|e| panic!("draw {}: {e}", picture.display()));
    println!("{:.0} s", start.elapsed().as_secs_f64());
    let missed = all
        .iter()
        .filter_map(goals::verdict)
        .filter(|(_, met)| !met);
    let missed = missed.count();
    if options.enforce && missed > 0 {
        eprintln!("{missed} goals are missed");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

impl From<Variant> for Iptables {
    fn from(variant: Variant) -> Self {
        match variant {
            Variant::Nft => Self::Nft,
            Variant::Legacy => Self::Legacy,
        }
    }
}
