//! Pods behind another bridge than cni0 (`--pod-bridge`), such as Docker's, and what dockerd 28 does to them.

#![cfg(test)]

use flannel_common::program::Program;
use flannel_common::reason::Reason;
use flannel_tests::agent::command;
use flannel_tests::iptables::Iptables;
use flannel_tests::netns::output;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::{AnyDaemon, start};
use flannel_tests::{bpftool, udp};
use rstest::rstest;

const BRIDGE: &str = "docker0";
const FLAG: &str = "--pod-bridge=docker0";

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

fn doctor(agent: &Agent, flags: &[&str]) -> (Option<i32>, String) {
    let node = agent.node();
    let own = [
        "doctor".to_owned(),
        format!("--etcd-endpoints={}", node.etcd()),
        "--iface=eth0".to_owned(),
        format!("--bpffs={}", node.bpffs().display()),
        format!("--state-dir={}", node.state_dir().display()),
        format!("--subnet-file={}", agent.subnet_file().display()),
    ];
    let all: Vec<&str> = own
        .iter()
        .map(String::as_str)
        .chain(flags.iter().copied())
        .collect();
    let output = output(&mut command(node, &all));
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// What dockerd 28 writes for a container: in the way of flannel's packets, too, whoever is flannel.
#[rstest]
fn packets_from_other_nodes_meet_dockers_rules(
    #[values(Kind::Flanneld, Kind::Ours)] kind: Kind,
    #[values(Iptables::Nft, Iptables::Legacy)] iptables: Iptables,
) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let flags: &[&str] = match kind {
        Kind::Ours => &[FLAG],
        _ => &[],
    };
    let join = |name| -> AnyDaemon { start(kind, lab.node(name), &net, flags) };
    let (one, two) = (join("one"), join("two"));
    one.follow_leases();
    two.follow_leases();
    let (pod1, pod2) = (
        Pod::behind(&one, "pod1", BRIDGE),
        Pod::behind(&two, "pod2", BRIDGE),
    );
    pod1.reaches(&pod2);
    let rule = format!(
        "-A PREROUTING -d {}/32 ! -i {BRIDGE} -j DROP",
        pod2.address()
    );
    iptables.restore(
        two.node(),
        &["*raw".to_owned(), rule.clone(), "COMMIT".to_owned()],
    );
    assert_eq!(pod1.ping(pod2.address()).send().received, 0);

    if let Some(agent) = two.agent() {
        let (status, text) = doctor(agent, flags);
        assert!(
            text.contains(&rule) && text.contains("--allow-direct-routing"),
            "{text}"
        );
        assert_eq!(status, Some(2));
        // Of another bridge's pods it says nothing.
        let (_, text) = doctor(agent, &["--pod-bridge=cni0"]);
        assert!(!text.contains("--allow-direct-routing"), "{text}");
    }
}

#[test]
fn the_bridge_is_honoured_everywhere() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let node = lab.node("one");
    let folder = node.folder().join("net.d");
    let written = format!("--cni-conf-dir={}", folder.display());
    let one = Agent::start_with(node, &net, &[FLAG, &written]);
    let two = Agent::start_with(lab.node("two"), &net, &[FLAG]);
    let conflist = std::fs::read_to_string(folder.join("10-flannel.conflist")).unwrap();
    assert!(conflist.contains(r#""bridge": "docker0""#), "{conflist}");

    let (pod1, pod2) = (
        Pod::behind(&one, "pod1", BRIDGE),
        Pod::behind(&two, "pod2", BRIDGE),
    );
    pod1.reaches(&pod2);
    eventually("its ports have the fast path", SOON, || {
        udp::exchange(&pod1, &pod2, pod2.address(), 100);
        bpftool::count(&one, Program::PodTx, Reason::Unverified) > 0
    });
    let (status, text) = doctor(&one, &[FLAG]);
    assert!(
        text.contains("docker0 is inside this node's subnet"),
        "{text}"
    );
    assert_eq!(status, Some(0), "{text}");

    // A bridge that kept an earlier lease's subnet.
    let other = pod2.address();
    one.exec(&format!("ip addr flush dev {BRIDGE}"));
    one.exec(&format!("ip addr add {other}/24 dev {BRIDGE}"));
    eventually("the mismatch is said", SOON, || {
        one.log().contains("the bridge docker0 has")
    });
    let (status, text) = doctor(&one, &[FLAG]);
    assert!(
        text.contains(&format!("docker0 has the address {other}/24")),
        "{text}"
    );
    assert_eq!(status, Some(2));
}
