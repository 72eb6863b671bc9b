//! `cargo xtask test --cluster`, `test --sig-network` and `demo --kubernetes`: a real Kubernetes cluster of two nodes, each with kubelet, containerd and
//! kube-proxy in namespaces of its own, served by the shipped image, manifest and CNI plugin.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "as in the tests' library: what fails here is to fail loudly"
)]

mod cluster;
mod demo;
mod kubectl;
mod machine;
mod manifests;
mod pods;
mod scenarios;
mod sig_network;
mod traffic;

use std::process::ExitCode;

use flannel_tests::supervise;
use flannel_tests::sweep::is_dead;

use crate::machine::remove_cgroups;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let ended = supervise::run(|| match args.split_first() {
        Some((verb, _)) if verb == "demo" => {
            demo::show();
            ExitCode::SUCCESS
        }
        Some((verb, wanted)) if verb == "test" => scenarios::run(wanted),
        Some((verb, words)) if verb == "sig-network" => sig_network::run(words),
        _ => panic!(
            "`test`, with names of scenarios or without, `sig-network` with its words, or `demo`"
        ),
    });
    // Of whoever ended before he could.
    remove_cgroups(is_dead);
    ended
}
