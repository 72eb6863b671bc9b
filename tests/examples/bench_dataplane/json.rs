//! The results for machines.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::goals::{self, BASE};
use crate::mode::Mode;
use crate::rounds::Series;
use crate::stats::Spread;

/// Everything that was measured, in base units: seconds, bytes a second, CPU seconds a unit.
pub(crate) fn write(path: &Path, all: &[Series], modes: &[Mode], programs: &Value) {
    let document = json!({
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "processor": processor(),
        "results": all.iter().map(|s| series(s, modes)).collect::<Vec<_>>(),
        "programs": programs,
    });
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    }
    let text = serde_json::to_string_pretty(&document).expect("plain values");
    fs::write(path, text + "\n").unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    println!("\nwritten to {}", path.display());
}

fn series(series: &Series, modes: &[Mode]) -> Value {
    let group = &series.group;
    let columns = modes
        .iter()
        .map(|mode| (mode.name(), column(series, *mode)));
    let goal = goals::verdict(series);
    json!({
        "condition": group.condition.name(),
        "cores": format!("{:?}", group.cores).to_lowercase(),
        "flows": group.flows,
        "traffic": series.traffic.name(),
        "higher_is_better": series.traffic.is_rate(),
        "rounds": series.rounds.len(),
        "goal": goal.map(|(goal, _)| goal.to_string()),
        "met": goal.map(|(_, met)| met),
        "modes": columns.collect::<serde_json::Map<_, _>>(),
    })
}

fn column(series: &Series, mode: Mode) -> Value {
    json!({
        "value": spread(series.spread(mode, |s| s.value)),
        "cpu": spread(series.spread(mode, |s| s.cpu)),
        "ratio_to_kernel": spread(series.ratio(mode, BASE, |s| s.value)),
        "cpu_ratio_to_kernel": spread(series.ratio(mode, BASE, |s| s.cpu)),
        "speed_of_bare": spread(series.speed(mode, Mode::Bare)),
        "loss": spread(series.spread(mode, |s| s.loss)),
        "reordered": series.total(mode, |s| s.tcp.reordered),
        "out_of_order": series.total(mode, |s| s.tcp.out_of_order),
        "retransmitted": series.total(mode, |s| s.tcp.retransmitted),
    })
}

fn spread(spread: Option<Spread>) -> Value {
    spread.map_or(
        Value::Null,
        |s| json!({"median": s.median, "q1": s.low, "q3": s.high}),
    )
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name"));
    name.map_or_else(String::new, |n| {
        n.trim_start_matches([' ', '\t', ':']).to_owned()
    })
}
