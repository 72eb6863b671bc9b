//! `flannel-agent cleanup`, as an operator runs it on a node.

use std::process::Command;

use crate::agent::{self, Agent};
use crate::member::Member as _;

/// It with the flags that the agent had, which need not run any more.
pub fn command(agent: &Agent) -> Command {
    let node = agent.node();
    let flags = [
        "cleanup".to_owned(),
        format!("--etcd-prefix={}", agent.net().prefix),
        format!("--bpffs={}", node.bpffs().display()),
        format!("--state-dir={}", node.state_dir().display()),
        format!("--subnet-file={}", agent.subnet_file().display()),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    agent::command(node, &flags)
}
