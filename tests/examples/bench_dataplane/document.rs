//! The results for machines, and for a page that is made later.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::goals::{self, BASE};
use crate::machine::Machine;
use crate::mode::Mode;
use crate::plan::Effort;
use crate::programs::Cost;
use crate::rounds::Series;

/// Everything that was measured, in base units: seconds, bytes a second, CPU seconds a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Document {
    pub(crate) machine: Machine,
    pub(crate) effort: Effort,
    /// What the run took.
    pub(crate) seconds: f64,
    /// Each sample, so that everything else can be computed again.
    pub(crate) series: Vec<Series>,
    /// Each program alone.
    pub(crate) programs: Vec<Cost>,
    /// Each program while traffic ran.
    pub(crate) in_traffic: Vec<Cost>,
    /// What failed and is no cell of a table.
    pub(crate) failures: Vec<String>,
}

impl Document {
    pub(crate) fn new(machine: Machine, effort: Effort) -> Self {
        Self {
            machine,
            effort,
            seconds: 0.0,
            series: Vec::new(),
            programs: Vec::new(),
            in_traffic: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// All that failed, cells and the rest, one line each.
    pub(crate) fn failed(&self) -> Vec<String> {
        let mut lines = self.cells(|series| &series.failed);
        lines.extend(self.failures.iter().cloned());
        lines
    }

    /// What failed once and then did not.
    pub(crate) fn again(&self) -> Vec<String> {
        self.cells(|series| &series.again)
    }

    fn cells(&self, which: impl Fn(&Series) -> &BTreeMap<Mode, String>) -> Vec<String> {
        let mut lines = Vec::new();
        for series in &self.series {
            let place = format!("{}; {}", series.group.name(), series.traffic.name());
            let line = |(mode, why): (&Mode, &String)| format!("{}: {place}: {why}", mode.name());
            lines.extend(which(series).iter().map(line));
        }
        lines
    }

    /// # Errors
    /// When the file cannot be written, naming it.
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let error = |e: std::io::Error| format!("write {}: {e}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(error)?;
        }
        fs::write(path, self.text()).map_err(error)
    }

    /// # Errors
    /// When the file cannot be read or is not one of ours, naming it.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let document = Self::parse(&text).map_err(|e| {
            format!(
                "{} holds no results of this version's bench ({e}); measure again",
                path.display()
            )
        });
        document.map(Self::of_this_plan)
    }

    /// Without what was measured where it is no longer asked for.
    fn of_this_plan(mut self) -> Self {
        for series in &mut self.series {
            let group = &series.group;
            for round in &mut series.rounds {
                round.retain(|mode, _| group.admits(*mode));
            }
            series.failed.retain(|mode, _| group.admits(*mode));
        }
        self
    }

    /// Of several runs, in their order.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(crate) fn read_all(paths: &[PathBuf]) -> Result<Self, String> {
        let mut runs = paths.iter().map(|path| Self::read(path));
        let first = runs.next().ok_or("no file")??;
        runs.try_fold(first, |all, run| Ok(all.followed_by(run?)))
    }

    /// With what a later run measured in the place of the same.
    fn followed_by(mut self, later: Self) -> Self {
        for series in later.series {
            let is_same = |it: &&mut Series| {
                it.group.name() == series.group.name() && it.traffic == series.traffic
            };
            match self.series.iter_mut().find(is_same) {
                Some(same) => *same = series,
                None => self.series.push(series),
            }
        }
        if !later.programs.is_empty() {
            self.programs = later.programs;
            self.failures.retain(|line| !line.starts_with("programs"));
        }
        self.failures.extend(later.failures);
        self.seconds += later.seconds;
        self
    }

    /// With medians and quartiles for those who do not want to compute them; they are not read back.
    pub(crate) fn text(&self) -> String {
        let mut document = serde_json::to_value(self).expect("plain values");
        document["summary"] = self.series.iter().map(summary).collect();
        serde_json::to_string(&document).expect("plain values") + "\n"
    }

    fn parse(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }
}

fn summary(series: &Series) -> Value {
    let group = &series.group;
    let modes = group.modes(&Mode::ALL);
    let columns = modes
        .iter()
        .map(|mode| (mode.name(), column(series, *mode)));
    let verdict = goals::verdict(series);
    json!({
        "group": group.name(),
        "traffic": series.traffic.name(),
        "higher_is_better": series.traffic.is_rate(),
        "rounds": series.rounds.len(),
        "goal": verdict.map(|v| v.goal.to_string()),
        "met": verdict.map(|v| v.is_met()),
        "modes": columns.collect::<serde_json::Map<_, _>>(),
    })
}

fn column(series: &Series, mode: Mode) -> Value {
    json!({
        "value": series.spread(mode, |s| s.value),
        "cpu": series.spread(mode, |s| s.cpu),
        "ratio_to_kernel": series.ratio(mode, BASE, |s| s.value),
        "cpu_ratio_to_kernel": series.ratio(mode, BASE, |s| s.cpu),
        "speed_of_bare": series.speed(mode, Mode::Bare),
        "loss": series.spread(mode, |s| s.loss),
        "reordered": series.total(mode, |s| s.tcp.reordered),
        "out_of_order": series.total(mode, |s| s.tcp.out_of_order),
        "retransmitted": series.total(mode, |s| s.tcp.retransmitted),
        "failed": series.failed.get(&mode),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture, page, table};

    #[test]
    fn what_is_written_is_read_back() {
        let mut document = fixture::document();
        document.series[3]
            .failed
            .insert(Mode::Off, "the client: connect: timed out".to_owned());
        document.series[4]
            .again
            .insert(Mode::Bare, "the server ended".to_owned());
        document.failures.push("programs: no memory".to_owned());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/results.json");
        document.write(&file).unwrap();
        let again = Document::read(&file).unwrap();
        // Decimal fractions lose the last bit.
        assert_eq!(page::text(&again), page::text(&document));
        assert_eq!(table::outcome(&again), table::outcome(&document));
        let failed = again.failed();
        assert_eq!(failed.len(), 2);
        assert!(failed[0].starts_with("off: 64 KiB wire, br_netfilter on, one core, 1 flow; "));
        assert!(failed[0].ends_with(": the client: connect: timed out"));
        assert_eq!(again.again().len(), 1);
        assert!(again.again()[0].ends_with("; udp-rr: the server ended"));
    }

    /// The rest is the first one's.
    #[test]
    fn a_later_run_counts_where_it_measured() {
        let mut first = fixture::document();
        first.series[2]
            .failed
            .insert(Mode::Verified, "timed out".to_owned());
        first
            .failures
            .push("programs on their own: no time".to_owned());
        let mut later = fixture::document();
        later.series = vec![later.series.swap_remove(2)];
        let rows = first.series.len();
        assert_eq!(first.failed().len(), 2);
        let both = first.followed_by(later);
        assert_eq!((both.series.len(), both.failed()), (rows, vec![]));
    }

    #[test]
    fn a_column_that_is_not_asked_for_is_left_out() {
        let mut document = fixture::document();
        let many = document.series.iter_mut().find(|it| it.group.flows > 1);
        let round = &mut many.unwrap().rounds[0];
        let sample = round[&Mode::Verified];
        round.insert(Mode::Udp, sample);
        assert_eq!(document.of_this_plan(), fixture::document());
    }

    #[test]
    fn the_summary_has_medians_and_verdicts() {
        let text = fixture::document().text();
        let json: Value = serde_json::from_str(&text).unwrap();
        let rr = &json["summary"][0];
        assert_eq!(rr["traffic"], "tcp-rr");
        assert_eq!(rr["met"], true);
        let ratio = rr["modes"]["verified"]["ratio_to_kernel"]["median"].as_f64();
        fixture::same(ratio.unwrap(), 0.5);
        assert_eq!(rr["modes"]["xdp"], Value::Null, "no such wire");
    }

    #[test]
    fn another_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("other.json");
        fs::write(&file, "{}").unwrap();
        let said = Document::read(&file).unwrap_err();
        assert!(
            said.contains("other.json") && said.contains("measure again"),
            "{said}"
        );
        let missing = Document::read(&folder.path().join("none.json")).unwrap_err();
        assert!(missing.contains("none.json"), "{missing}");
    }
}
