//! `doctor` as an operator asks it, with the agent's own flags.

use serde_json::Value;

use crate::agent::{Agent, command};
use crate::member::Member as _;
use crate::netns::output;
use crate::node::Node;

/// What it said.
#[derive(Debug)]
pub struct Said {
    /// Its exit status.
    pub status: Option<i32>,
    /// Mark and text of each line.
    pub lines: Vec<(String, String)>,
}

impl Said {
    /// Everything that is not ok.
    pub fn trouble(&self) -> Vec<&str> {
        let odd = self.lines.iter().filter(|(mark, _)| mark != "ok");
        odd.map(|(_, what)| what.as_str()).collect()
    }

    /// Whether a line with a tick contains `text`.
    pub fn is_fine(&self, text: &str) -> bool {
        let mut fine = self.lines.iter().filter(|(mark, _)| mark == "ok");
        fine.any(|(_, what)| what.contains(text))
    }
}

/// Asks about the node of `agent`.
///
/// # Panics
/// If what it says is not to be read.
#[track_caller]
pub fn ask(agent: &Agent, flags: &[&str]) -> Said {
    let node = agent.node();
    let own = [
        "doctor".to_owned(),
        "-o=json".to_owned(),
        format!("--bpffs={}", node.bpffs().display()),
        format!("--state-dir={}", node.state_dir().display()),
        format!("--etcd-endpoints={}", node.etcd()),
        format!("--iface={}", Node::UPLINK),
        format!("--subnet-file={}", agent.daemon().subnet_file().display()),
    ];
    let all: Vec<&str> = own
        .iter()
        .map(String::as_str)
        .chain(flags.iter().copied())
        .collect();
    let output = output(&mut command(node, &all));
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let word = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    Said {
        status: output.status.code(),
        lines: checks
            .iter()
            .map(|check| (word(check, "mark"), word(check, "what")))
            .collect(),
    }
}
