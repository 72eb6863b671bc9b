//! The command line, and what it asks for.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{EnumValueParser, TypedValueParser};
use clap::{Parser, Subcommand, ValueEnum};
use flannel_tests::iptables::Iptables;

use crate::mode::Mode;
use crate::plan::{self, Effort, Group};
use crate::topology::Means;
use crate::worker::Role;

/// Dataplane: what a transaction, a packet and a byte cost, beside flannel's kernel vxlan
///
/// Both nodes are namespaces of this machine and the wire is a veth pair, so only ratios mean something, and only if the machine
/// has nothing else to do. Exit status 1 says that something could not be measured.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Under two minutes: the goals only, on one core
    #[arg(long)]
    pub(crate) quick: bool,
    /// End within so many minutes, with fewer rounds if need be [default: 25, quick: 1.8]
    #[arg(long, global = true, value_parser = minutes)]
    minutes: Option<Duration>,
    /// Rounds; every mode gets one sample in each [default: 5]
    #[arg(long, value_parser = rounds)]
    rounds: Option<usize>,
    /// Length of one sample in milliseconds [default: 150]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    time: Option<u64>,
    /// Only groups or traffic whose name contains one of these, such as `tcp-rr` or `two cores`; repeatable
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// The dataplanes [default: all, quick: bare, kernel, verified]
    #[arg(long, global = true, value_parser = mode(), value_delimiter = ',')]
    modes: Vec<Mode>,
    /// Measure another agent as well, such as one of an earlier commit: its path becomes the dataplane `before`
    #[arg(long, global = true, value_name = "AGENT")]
    before: Option<PathBuf>,
    /// Which kind of iptables writes flannel's rules
    #[arg(long, value_enum, default_value = "nft")]
    iptables: Variant,
    /// Where the numbers go as JSON; a picture goes beside it [default: bench-results/dataplane.json, of `programs` programs.json]
    #[arg(long, global = true)]
    out: Option<PathBuf>,
    /// Measure nothing: take the numbers of an earlier run; of several, the last one's where more than one has them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "rounds", "time", "only", "modes", "out"])]
    pub(crate) from: Vec<PathBuf>,
    /// Write docs/bench.md and docs/bench.svg
    #[arg(long)]
    pub(crate) write_docs: bool,
    /// Fail when a goal is missed
    #[arg(long)]
    pub(crate) enforce: bool,
    #[command(subcommand)]
    pub(crate) part: Option<Part>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Variant {
    Nft,
    Legacy,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Part {
    /// Only what each program costs, on its own and in traffic
    Programs,
    /// One side of the traffic, inside its pod
    #[command(hide = true)]
    Worker { role: Role },
}

impl Options {
    pub(crate) fn effort(&self) -> Effort {
        let time = Duration::from_millis(self.time.unwrap_or(150));
        Effort {
            rounds: self.rounds.unwrap_or(5),
            warm_up: time / 8,
            time,
        }
    }

    /// When the run is over, whatever is left to do.
    pub(crate) fn limit(&self) -> Duration {
        let seconds = if self.quick { 108 } else { 25 * 60 };
        self.minutes.unwrap_or(Duration::from_secs(seconds))
    }

    pub(crate) fn modes(&self) -> Vec<Mode> {
        let mut modes = match (&self.modes[..], self.quick) {
            ([], true) => Mode::JUDGED.to_vec(),
            ([], false) => Mode::ALL.to_vec(),
            (some, _) => some.to_vec(),
        };
        if self.before.is_some() {
            modes.push(Mode::Before);
        }
        modes
    }

    pub(crate) fn out(&self) -> PathBuf {
        let name = match self.part {
            None => "bench-results/dataplane.json",
            Some(_) => "bench-results/programs.json",
        };
        self.out.clone().unwrap_or_else(|| name.into())
    }

    pub(crate) fn means(&self) -> Means {
        Means {
            iptables: match self.iptables {
                Variant::Nft => Iptables::Nft,
                Variant::Legacy => Iptables::Legacy,
            },
            before: self.before.clone(),
        }
    }

    /// # Errors
    /// When `--only` leaves nothing, naming it.
    pub(crate) fn groups(&self) -> Result<Vec<Group>, String> {
        let all = if self.quick {
            plan::quick()
        } else {
            plan::full()
        };
        if self.only.is_empty() {
            return Ok(all);
        }
        let groups = only(all, &self.only);
        if groups.is_empty() {
            return Err(format!(
                "no group and no traffic is called like any of {:?}; names are those of the tables, such as `one core` or `tcp-rr`",
                self.only
            ));
        }
        Ok(groups)
    }
}

/// Groups by name, traffic by name, or traffic within groups where both are named.
fn only(mut groups: Vec<Group>, texts: &[String]) -> Vec<Group> {
    let wanted = |name: &str| texts.iter().any(|text| name.contains(text.as_str()));
    let named = groups.iter().any(|g| wanted(&g.name()));
    let mut traffic = groups.iter().flat_map(|g| &g.traffic);
    let chosen = traffic.any(|t| wanted(&t.name()));
    if named {
        groups.retain(|g| wanted(&g.name()));
    }
    if chosen {
        for group in &mut groups {
            group.traffic.retain(|t| wanted(&t.name()));
        }
    }
    groups.retain(|g| (named || chosen) && !g.traffic.is_empty());
    groups
}

fn mode() -> impl TypedValueParser<Value = Mode> {
    EnumValueParser::<Mode>::new().try_map(|mode| match mode {
        Mode::Before => Err("say which build with `--before AGENT`; it is measured then"),
        mode => Ok(mode),
    })
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: Option<f64> = text.parse().ok().filter(|m| (0.1..=1440.0).contains(m));
    let minutes = minutes.ok_or("give a number of minutes from 0.1 to 1440")?;
    Ok(Duration::from_secs_f64(minutes * 60.0))
}

fn rounds(text: &str) -> Result<usize, String> {
    let rounds = text.parse().ok().filter(|rounds| *rounds > 0);
    rounds.ok_or_else(|| "give a number of rounds, at least 1".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Options {
        Options::parse_from(std::iter::once("bench").chain(line.split_whitespace()))
    }

    fn refused(line: &str) -> String {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Options::try_parse_from(words).unwrap_err().to_string()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    /// On a machine with nothing else to do there is time for every round.
    #[test]
    fn what_is_planned_fits_into_the_time() {
        for line in ["", "--quick"] {
            let options = parse(line);
            let expected: Duration = crate::run::steps(&options)
                .unwrap()
                .iter()
                .map(|s| s.1)
                .sum();
            assert!(expected < options.limit(), "{line}: {expected:?}");
            assert!(expected > options.limit() / 4, "{line}: {expected:?}");
        }
        assert!(parse("--quick").limit() < Duration::from_secs(120));
    }

    #[test]
    fn an_earlier_build_is_one_more_dataplane() {
        assert_eq!(
            parse("--quick --before old/flannel-agent").modes(),
            [Mode::Bare, Mode::Kernel, Mode::Verified, Mode::Before]
        );
        let message = refused("--modes off,before");
        assert!(message.contains("--before AGENT"), "{message}");
    }

    #[test]
    fn parts_are_chosen_by_name() {
        let groups = |line: &str| parse(line).groups().unwrap();
        assert!(groups("--only tcp-rr").iter().all(|g| g.traffic.len() == 1));
        assert!(
            groups("--only outside")
                .iter()
                .all(|g| g.condition.beside.is_outside())
        );
        let both = groups("--only outside --only udp-rr");
        assert!(both.iter().all(|g| g.traffic.len() == 1) && both.len() == 4);
        let said = parse("--only tcp-nothing").groups().unwrap_err();
        assert!(said.contains("tcp-nothing"), "{said}");
    }

    #[test]
    fn the_numbers_of_programs_do_not_replace_those_of_a_whole_run() {
        assert_ne!(parse("").out(), parse("programs").out());
        assert_eq!(
            parse("programs --out x.json").out(),
            PathBuf::from("x.json")
        );
        assert_eq!(parse("programs --modes off").modes(), [Mode::Off]);
    }

    #[test]
    fn nonsense_is_refused_with_what_is_sensible() {
        assert!(refused("--rounds 0").contains("at least 1"));
        assert!(refused("--minutes nan").contains("0.1 to 1440"));
        assert!(refused("--from x --quick").contains("cannot be used with"));
        assert_eq!(parse("--minutes 2.5").limit(), Duration::from_secs(150));
    }
}
