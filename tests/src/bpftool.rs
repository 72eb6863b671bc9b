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
    let mut entries = json(&text);
    let entries = entries.as_array_mut().expect("bpftool prints an array");
    entries
        .iter_mut()
        .map(|entry| entry["formatted"].take())
        .collect()
}

/// How often `program` had `reason`, over all CPUs.
#[track_caller]
pub fn count(agent: &Agent, program: Program, reason: Reason) -> u64 {
    let slot = (program as u32).to_ne_bytes().map(|byte| byte.to_string());
    // A dump would bring every program's slot, each with every reason.
    let text = run(Command::new("bpftool")
        .args(["-j", "map", "lookup", "pinned"])
        .arg(map_pin(agent, flannel_common::maps::STATS))
        .arg("key")
        .args(&slot));
    let found = json(&text);
    let cpus = found["formatted"]["values"]
        .as_array()
        .expect("a value per CPU");
    cpus.iter()
        .map(|cpu| {
            let counter = &cpu["value"][reason.name()];
            counter["packets"]
                .as_u64()
                .unwrap_or_else(|| panic!("no {} in {cpu}", reason.name()))
        })
        .sum()
}

/// By `parse`, which is compiled in its own crate and optimised with it: a generic function would be compiled here.
fn json(text: &str) -> Value {
    text.parse().expect("bpftool prints JSON")
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
