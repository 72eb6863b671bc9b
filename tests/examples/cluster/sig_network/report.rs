//! What has become of each test, by the runner's own report.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::choice::Choice;

/// By what the report says of it.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    pub(super) passed: Vec<String>,
    /// With what it says of the failure.
    pub(super) failed: Vec<(String, String)>,
    /// By itself, when it had seen the cluster, and why.
    pub(super) skipped: Vec<(String, String)>,
    /// Reasons of our list, and how many wanted tests each is of.
    pub(super) left_out: BTreeMap<&'static str, Vec<String>>,
}

/// # Panics
/// Without a report of one suite.
pub(super) fn read(path: &Path, choice: &Choice) -> Outcomes {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let report: Value = serde_json::from_slice(&text).expect("a report is JSON");
    let specs = report[0]["SpecReports"].as_array();
    let specs = specs.expect("a report has tests");
    let mut outcomes = Outcomes::default();
    for spec in specs {
        outcomes.add(spec, choice);
    }
    outcomes
}

impl Outcomes {
    fn add(&mut self, spec: &Value, choice: &Choice) {
        let said = spec["Failure"]["Message"].as_str().unwrap_or_default();
        let state = spec["State"].as_str().unwrap_or_default();
        if spec["LeafNodeType"] != "It" {
            // What all have before and behind them: it fails, or is nothing to tell.
            if !["passed", "skipped"].contains(&state) {
                let what = spec["LeafNodeType"].as_str().unwrap_or_default();
                self.failed.push((what.to_owned(), said.to_owned()));
            }
            return;
        }
        let name = name(spec);
        if !choice.is_wanted(&name) {
            return;
        }
        match state {
            "passed" => self.passed.push(name),
            "skipped" if !said.is_empty() => self.skipped.push((name, said.to_owned())),
            "skipped" | "pending" => match choice.reason(&name) {
                Some(reason) => self.left_out.entry(reason).or_default().push(name),
                None => self.failed.push((name, "it did not run".to_owned())),
            },
            _ => self.failed.push((name, said.to_owned())),
        }
    }
}

/// Of all that it is in, and its own.
fn name(spec: &Value) -> String {
    let above = spec["ContainerHierarchyTexts"].as_array();
    let above = above.into_iter().flatten().filter_map(Value::as_str);
    let own = spec["LeafNodeText"].as_str();
    above.chain(own).collect::<Vec<_>>().join(" ")
}
