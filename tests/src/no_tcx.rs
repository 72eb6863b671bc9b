//! A kernel without tcx (before 6.6), as far as one process can tell: its bpf(2) refuses tcx links, as such a kernel does.

use std::process::Command;

use crate::netns::run;
use crate::node::Node;

/// A wrapper for the agent: see [`crate::agent::Agent::start_under`].
///
/// # Panics
/// Without a C compiler.
#[track_caller]
pub fn wrapper(node: &Node) -> String {
    let (source, library) = (
        node.folder().join("no_tcx.c"),
        node.folder().join("no_tcx.so"),
    );
    std::fs::write(&source, include_str!("no_tcx.c")).expect("write to the node's folder");
    run(Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl"));
    format!("env LD_PRELOAD={}", library.display())
}
