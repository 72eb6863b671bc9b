//! Numbers against goals, as a table and as JSON.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::kube::Followed;
use crate::server::Served;

/// The goals of the control plane, for 5,000 leases.
const START: f64 = 2000.0;
const CHANGE: f64 = 50.0;
const MEMORY: f64 = 50.0;
/// The same with the Kubernetes API and 5,000 Nodes.
const KUBE_START: f64 = 1500.0;
const KUBE_MEMORY: f64 = 40.0;
/// And of a server with 5,000 clients.
const TOLD: f64 = 100.0;
const SERVER_MEMORY: f64 = 60.0;

#[derive(Debug)]
struct Row {
    what: &'static str,
    unit: &'static str,
    median: f64,
    /// What the goal is compared with.
    worst: f64,
    /// `None`: only to be looked at.
    goal: Option<f64>,
}

impl Row {
    fn is_met(&self) -> bool {
        self.goal.is_none_or(|goal| self.worst <= goal)
    }
}

#[derive(Debug)]
pub(crate) struct Report {
    leases: u32,
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(leases: u32) -> Self {
        Self {
            leases,
            rows: Vec::new(),
        }
    }

    pub(crate) fn add_agent(
        &mut self,
        starts: &[Duration],
        changes: &[Duration],
        work: Duration,
        memory: u64,
    ) {
        self.add("start to complete map", "ms", &millis(starts), Some(START));
        self.add("changed lease to map", "ms", &millis(changes), Some(CHANGE));
        self.add("processor per change", "ms", &millis(&[work]), None);
        let memory = [megabytes(memory)];
        self.add("peak resident memory", "MB", &memory, Some(MEMORY));
    }

    pub(crate) fn add_server(&mut self, served: &Served) {
        let told = millis(&served.told);
        self.add("changed lease to clients", "ms", &told, Some(TOLD));
        let before = [megabytes(served.memory_before)];
        self.add("server without clients", "MB", &before, None);
        let memory = [megabytes(served.memory)];
        self.add("server's peak memory", "MB", &memory, Some(SERVER_MEMORY));
    }

    pub(crate) fn add_kube(&mut self, followed: &Followed) {
        let starts = millis(&followed.starts);
        self.add("Nodes: start to map", "ms", &starts, Some(KUBE_START));
        let memory = [megabytes(followed.memory)];
        self.add("Nodes: peak memory", "MB", &memory, Some(KUBE_MEMORY));
    }

    fn add(&mut self, what: &'static str, unit: &'static str, values: &[f64], goal: Option<f64>) {
        self.rows.push(Row {
            what,
            unit,
            median: quantile(values, 0.5),
            worst: quantile(values, 0.99),
            goal,
        });
    }

    pub(crate) fn goals_met(&self) -> bool {
        self.rows.iter().all(Row::is_met)
    }

    pub(crate) fn print(&self) {
        println!("\n{} leases", self.leases);
        println!("{:<26}{:>10}{:>10}{:>10}", "", "median", "99 %", "goal");
        for row in &self.rows {
            let Row {
                what,
                unit,
                median,
                worst,
                ..
            } = row;
            print!("{what:<26}{median:>10.1}{worst:>10.1}");
            match row.goal {
                Some(goal) => {
                    let verdict = if row.is_met() { "met" } else { "MISSED" };
                    println!("{goal:>10.1} {unit}  {verdict}");
                }
                None => println!("{:>10} {unit}", ""),
            }
        }
    }

    pub(crate) fn write(&self, path: &Path) {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        }
        let text = serde_json::to_string_pretty(&self.json()).expect("plain values");
        std::fs::write(path, text + "\n").unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        println!("\nwritten to {}", path.display());
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({"what": row.what, "unit": row.unit, "median": row.median, "p99": row.worst, "goal": row.goal})
        });
        json!({"leases": self.leases, "results": rows.collect::<Vec<_>>()})
    }
}

#[expect(clippy::cast_precision_loss, reason = "a process has no 2^52 bytes")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn millis(times: &[Duration]) -> Vec<f64> {
    times.iter().map(|time| time.as_secs_f64() * 1e3).collect()
}

/// The smallest value that at least the share `q` of all values does not exceed.
fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank between 0 and the number of values"
    )]
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or(f64::NAN)
}
