//! Counts, in what libtest prints, the scenarios that ran on ours and on a control.

use std::collections::BTreeMap;
use std::fmt;

/// On whom one case of a scenario ran, by the case's name: `mix_4_Mix__Flanneld`, `case_1_ours`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    /// Alone or beside flanneld.
    Ours,
    /// Real flanneld.
    Flanneld,
    /// What flanneld sets up, by hand.
    ByHand,
}

/// Whether every case on a side passed; `None` if there was none.
type Passed = Option<bool>;

#[derive(Debug, Default)]
struct Scenario {
    ours: Passed,
    flanneld: Passed,
    by_hand: Passed,
}

impl Scenario {
    fn side(&mut self, side: Side) -> &mut Passed {
        match side {
            Side::Ours => &mut self.ours,
            Side::Flanneld => &mut self.flanneld,
            Side::ByHand => &mut self.by_hand,
        }
    }

    /// Ours and the better control, if it ran on both.
    fn controlled(&self) -> Option<(bool, bool)> {
        Some((self.ours?, self.flanneld.or(self.by_hand)?))
    }
}

/// What has been read so far.
#[derive(Debug, Default)]
pub(crate) struct Controls {
    /// Which test program talks: two may have a test of the same name.
    program: u32,
    scenarios: BTreeMap<(u32, String), Scenario>,
}

impl Controls {
    /// Takes a line of libtest's output.
    pub(crate) fn read(&mut self, line: &str) {
        if line.starts_with("running ") {
            self.program += 1;
        } else if let Some((name, passed)) = result(line) {
            self.add(name, passed);
        }
    }

    fn add(&mut self, name: &str, passed: bool) {
        let mut parts = name.split("::");
        let mut scenario = parts.next().unwrap_or_default().to_owned();
        let mut side = None;
        for part in parts {
            match case(part) {
                Some(value) => side = side.or(side_of(value)),
                None => scenario = format!("{scenario}::{part}"),
            }
        }
        if let Some(side) = side {
            let scenario = self.scenarios.entry((self.program, scenario)).or_default();
            let so_far = scenario.side(side);
            *so_far = Some(so_far.unwrap_or(true) && passed);
        }
    }
}

impl fmt::Display for Controls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self
            .scenarios
            .iter()
            .filter_map(|((_, name), s)| Some((name, s.flanneld.is_some(), s.controlled()?)))
            .collect();
        let flanneld = all.iter().filter(|(_, flanneld, _)| *flanneld).count();
        let ours = all.iter().filter(|(.., (ours, _))| *ours).count();
        let controls = all.iter().filter(|(.., (_, control))| *control).count();
        let total = all.len();
        write!(
            f,
            "scenarios with a control: {total}, of them on real flanneld: {flanneld}; \
             ours passed: {ours}, the control: {controls}"
        )?;
        for (name, _, verdict) in &all {
            match verdict {
                (_, false) => write!(
                    f,
                    "\n  {name}: the control failed, so the scenario is wrong"
                )?,
                (false, true) => write!(f, "\n  {name}: only ours failed")?,
                (true, true) => {}
            }
        }
        Ok(())
    }
}

/// Name and outcome, from "test NAME ... ok" or "test NAME ... FAILED".
fn result(line: &str) -> Option<(&str, bool)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    match outcome.trim_end() {
        "ok" => Some((name, true)),
        outcome if outcome.starts_with("FAILED") => Some((name, false)),
        _ => None,
    }
}

/// The value in the part that rstest adds to a test's name: `mix_4_Mix__Flanneld` is the fourth value of `mix`.
fn case(part: &str) -> Option<&str> {
    let mut words = part.split('_');
    words.next()?;
    if !words.any(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    // An unnamed case has a number alone.
    Some(words.next_back().unwrap_or_default())
}

fn side_of(value: &str) -> Option<Side> {
    match value.to_ascii_lowercase().as_str() {
        "ours" | "oursandflanneld" | "flanneldandours" => Some(Side::Ours),
        "flanneld" => Some(Side::Flanneld),
        "kernel" => Some(Side::ByHand),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(lines: &[&str]) -> String {
        let mut controls = Controls::default();
        for line in lines {
            controls.read(line);
        }
        controls.to_string()
    }

    #[test]
    fn cases_of_one_scenario_are_one() {
        let text = counted(&[
            "running 7 tests",
            "test tcp::mix_1_Mix__Ours::wire_1_Wire__Whole ... ok",
            "test tcp::mix_1_Mix__Ours::wire_2_Wire__Segmented ... ok",
            "test tcp::mix_2_Mix__OursAndFlanneld::wire_1_Wire__Whole ... ok",
            "test tcp::mix_4_Mix__Flanneld::wire_1_Wire__Whole ... ok",
            "test far::snat::case_1_ours ... ok",
            "test far::snat::case_2_kernel ... ok",
            "test pods_of_2_nodes ... ok",
            "test only::kind_1_Kind__Ours ... ok",
            "test result: ok. 7 passed; 0 failed; 0 ignored",
        ]);
        assert_eq!(
            text,
            "scenarios with a control: 2, of them on real flanneld: 1; ours passed: 2, the control: 2"
        );
    }

    #[test]
    fn failures_are_named_with_what_they_mean() {
        let text = counted(&[
            "running 4 tests",
            "test a::case_1_ours ... FAILED",
            "test a::case_2_flanneld ... ok",
            "test b::mix_1_Mix__OursAndFlanneld ... ok",
            "test b::case_2_flanneld ... FAILED",
            // Another program's test of the same name.
            "running 2 tests",
            "test a::case_1_ours ... ok",
            "test a::case_2_flanneld ... ok",
        ]);
        assert_eq!(
            text,
            "scenarios with a control: 3, of them on real flanneld: 3; ours passed: 2, the control: 2\n  \
             a: only ours failed\n  b: the control failed, so the scenario is wrong"
        );
    }
}
