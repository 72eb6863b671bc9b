//! The agent's maps as an operator sees them: through bpftool, which prints the names from the object's BTF.

use std::path::PathBuf;
use std::process::Command;

use flannel_common::program::Program;
use flannel_common::reason::Reason;
use serde_json::Value;

use crate::agent::Agent;
use crate::member::Member as _;
use crate::netns::run;

/// Every entry of a map, as `bpftool map dump` formats it: `{"key": …, "value": …}`.
///
/// # Panics
/// If the map is not pinned.
#[track_caller]
pub fn dump(agent: &Agent, map: &str) -> Vec<Value> {
    let file = map_pin(agent, map);
    let text = run(Command::new("bpftool")
        .args(["-j", "map", "dump", "pinned"])
        .arg(&file));
    let entries: Vec<Value> = serde_json::from_str(&text).expect("bpftool prints JSON");
    entries
        .into_iter()
        .map(|mut entry| entry["formatted"].take())
        .collect()
}

/// How often `program` had `reason`, over all CPUs.
#[track_caller]
pub fn count(agent: &Agent, program: Program, reason: Reason) -> u64 {
    let slot = program as u64;
    let entries = dump(agent, flannel_common::maps::STATS);
    let entry = entries
        .iter()
        .find(|entry| entry["key"] == slot)
        .unwrap_or_else(|| panic!("no slot {slot} in the statistics"));
    let cpus = entry["values"].as_array().expect("a value per CPU");
    cpus.iter()
        .map(|cpu| {
            let counter = &cpu["value"][reason.name()];
            counter["packets"]
                .as_u64()
                .unwrap_or_else(|| panic!("no {} in {cpu}", reason.name()))
        })
        .sum()
}

/// Where the agent pins a map.
pub fn map_pin(agent: &Agent, map: &str) -> PathBuf {
    pins(agent).join("maps").join(map)
}

/// Where the agent pins: below its bpffs, by network and layout.
fn pins(agent: &Agent) -> PathBuf {
    let network: String = agent
        .net()
        .prefix
        .trim_start_matches('/')
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    agent
        .node()
        .bpffs()
        .join("flannel")
        .join(network)
        .join(format!("v{}", flannel_common::maps::LAYOUT_VERSION))
}
