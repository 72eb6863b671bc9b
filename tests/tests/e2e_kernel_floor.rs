//! Kernels that are too old: whoever starts the agent there is told what is missing, and nothing is left behind.
//!
//! Not on this kernel: `cargo xtask test --kernel 5.10`.

#![cfg(test)]

use flannel_tests::agent::{self, Daemon};
use flannel_tests::prelude::*;

/// What 5.10 has not: the first is refused when programs are loaded, the second only when a packet is.
const MISSING: [&str; 2] = ["bpf_ktime_get_coarse_ns", "BPF_F_ADJ_ROOM_ENCAP_L2_ETH"];

#[test]
#[ignore = "needs a kernel older than 5.11: cargo xtask test --kernel 5.10"]
fn on_a_kernel_too_old_the_agent_names_what_is_missing() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = lab.node("one");
    let mut daemon = Daemon::spawn(&node, &net, &[]);
    let status = daemon.process().wait(SOON);
    assert!(!status.success());
    let log = daemon.log();
    for missing in MISSING {
        assert!(log.contains(missing), "{missing}: {log}");
    }
    assert!(log.contains("6.1"), "{log}");
}

#[test]
#[ignore = "needs a kernel older than 5.11: cargo xtask test --kernel 5.10"]
fn on_a_kernel_too_old_doctor_names_what_is_missing() {
    let lab = Lab::new();
    let node = lab.node("one");
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let output = agent::command(&node, &["doctor", "--pre", &bpffs])
        .output()
        .expect("start doctor");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for missing in MISSING {
        assert!(said.contains(missing), "{missing}: {said}");
    }
    assert!(said.contains("6.1"), "{said}");
}
