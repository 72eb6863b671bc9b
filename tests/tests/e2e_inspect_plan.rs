//! `plan` says what the agent would do, and does none of it.

#![cfg(test)]

use std::process::Output;
use std::sync::Arc;

use flannel_tests::agent::command;
use flannel_tests::iptables::Iptables;
use flannel_tests::netns::output;
use flannel_tests::prelude::*;
use flannel_tests::{flannel_rules, unprivileged};
use serde_json::Value;

/// `flannel-agent plan` on `node`, with the flags that the harness gives the agent.
fn plan(node: &Node, flags: &[&str]) -> Output {
    let file = node
        .folder()
        .join("run/flannel-agent-coreos.com_network/subnet.env");
    let flags: Vec<String> = [
        "plan".to_owned(),
        format!("--bpffs={}", node.bpffs().display()),
        format!("--etcd-endpoints={}", node.etcd()),
        format!("--iface={}", Node::UPLINK),
        format!("--subnet-file={}", file.display()),
        format!("--state-dir={}", node.state_dir().display()),
    ]
    .into_iter()
    .chain(flags.iter().map(|flag| (*flag).to_owned()))
    .collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    output(&mut command(node, &flags))
}

/// Once the agent has done what it saw last.
#[track_caller]
fn nothing_is_left(node: &Node, flags: &[&str]) {
    eventually("nothing is left to do", SOON, || {
        steps(node, flags) == (Some(0), vec![])
    });
}

/// Exit status and the action of each step.
#[track_caller]
fn steps(node: &Node, flags: &[&str]) -> (Option<i32>, Vec<String>) {
    let output = plan(node, &[flags, &["-o", "json"]].concat());
    let value: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let steps = value["steps"].as_array().unwrap().iter();
    let steps = steps.map(|step| step["action"].as_str().unwrap().to_owned());
    (output.status.code(), steps.collect())
}

/// Whatever a plan might have changed. (Not what changes by itself: carrier, and IPv6 addresses that settle.)
fn traces(lab: &Lab, net: &Network, node: &Node) -> String {
    let folder = node.bpffs().join("flannel");
    let leases = lab.etcd().leases(net);
    let links: Value = serde_json::from_str(&node.exec("ip -j link")).unwrap();
    let links = links.as_array().unwrap().iter();
    let links: Vec<_> = links
        .map(|link| (&link["ifname"], &link["address"], &link["mtu"]))
        .map(|link| format!("{link:?}"))
        .collect();
    format!(
        "{links:?}{}{}{}{leases:?}",
        node.exec("ip -o -4 addr"),
        node.exec("ip route").replace(" linkdown", ""),
        folder.exists()
    )
}

#[test]
fn a_fresh_node_gets_everything_and_a_dry_run_leaves_no_trace() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = Arc::new(lab.node("one"));
    let before = traces(&lab, &net, &node);
    let (status, planned) = steps(&node, &[]);
    assert_eq!(status, Some(1), "{planned:?}");
    for action in [
        "take_lease",
        "create_pair",
        "load",
        "attach",
        "add_address",
        "write_subnet_file",
    ] {
        assert!(planned.iter().any(|step| step == action), "{planned:?}");
    }
    assert_eq!(traces(&lab, &net, &node), before);

    let mut agent = Agent::start_with(node.clone(), &net, &["--ip-masq"]);
    nothing_is_left(&node, &["--ip-masq"]);
    agent.restart_with(&[]);
    nothing_is_left(&node, &[]);
    let said = String::from_utf8(plan(&node, &[]).stdout).unwrap();
    assert!(said.ends_with("\nnothing to do\n"), "{said}");

    // Which the agent that runs has not.
    let said = String::from_utf8(plan(&node, &["--source-check=off"]).stdout).unwrap();
    let other = "the agent that runs here was started with other values of --source-check: ";
    assert!(
        said.contains(other) && !said.contains("within 30 s"),
        "{said}"
    );

    // Another setting, and something broken by hand while nobody repairs it.
    agent.kill();
    let (status, planned) = steps(&node, &["--source-check=off"]);
    assert_eq!(status, Some(1));
    assert!(planned.contains(&"load".to_owned()), "{planned:?}");
    node.exec("ip link set flannel.1 mtu 1400");
    assert_eq!(steps(&node, &[]), (Some(1), vec!["set_mtu".to_owned()]));
    let said = String::from_utf8(plan(&node, &[]).stdout).unwrap();
    assert!(said.contains("set the MTU of flannel.1 to 1450"), "{said}");
    assert!(said.contains("no agent runs for this network"), "{said}");
}

#[test]
fn a_new_peer_is_an_entry_and_a_route() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let mut one = Agent::start(lab.node("one"), &net);
    one.kill();
    let two = Agent::start(lab.node("two"), &net);
    let (status, planned) = steps(one.node(), &[]);
    assert_eq!(
        (status, planned),
        (
            Some(1),
            vec!["update_peers".to_owned(), "set_routes".to_owned()]
        )
    );
    drop(two);
}

#[test]
fn without_etcd_nothing_can_be_told() {
    let lab = Lab::new();
    let node = lab.node("one");
    // Nobody listens on this port.
    let output = plan(&node, &["--etcd-endpoints=http://127.0.0.1:9"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("127.0.0.1:9") && said.contains("what is pinned forwards on"),
        "{said}"
    );
}

/// What the daemon does late in a reconcile, each in its own words.
#[test]
fn the_late_steps_are_shown_too() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let mut agent = Agent::start(lab.node("one"), &net);
    let node = agent.node_arc();
    let small = ["--ip-masq", "--snat-entries=8192"];
    flannel_rules::masquerade(&agent, Iptables::Nft);
    agent.kill();

    let (status, planned) = steps(&node, &[&small[..], &["--ip-blackhole-route"]].concat());
    assert_eq!(status, Some(1));
    for action in [
        "remove_flanneld_masquerade",
        "add_blackhole_route",
        "set_steps",
    ] {
        assert!(planned.contains(&action.to_owned()), "{planned:?}");
    }
    // The table was made for nobody: nothing in it to carry.
    assert!(planned.contains(&"replace_map".to_owned()), "{planned:?}");
    let rules = node.exec("iptables-nft -t nat -S");
    assert!(rules.contains("flanneld masq"), "it was only said: {rules}");

    agent.restart_with(&small);
    nothing_is_left(&node, &small);
    let rules = node.exec("iptables-nft -t nat -S");
    assert!(!rules.contains("flanneld masq"), "{rules}");

    let large = ["--ip-masq", "--snat-entries=16384"];
    let (_, planned) = steps(&node, &large);
    assert!(planned.contains(&"resize_map".to_owned()), "{planned:?}");
    let said = String::from_utf8(plan(&node, &large).stdout).unwrap();
    let words = "resize fl_snat from 8192 to 16384 entries, carrying its connections over";
    assert!(said.contains(words), "{said}");
    agent.kill();
    agent.restart_with(&large);
    nothing_is_left(&node, &large);
}

#[test]
fn a_node_without_a_tunnel_has_nothing_to_do_either() {
    let lab = Lab::new();
    let net = lab.network(Network::host_gw("/coreos.com/network", "10.244.0.0/16"));
    let mut one = Agent::start(lab.node("one"), &net);
    let two = Agent::start(lab.node("two"), &net);
    let node = one.node_arc();
    nothing_is_left(&node, &[]);
    one.kill();
    node.exec(&format!("ip route del {}", two.subnet()));
    assert_eq!(steps(&node, &[]), (Some(1), vec!["set_routes".to_owned()]));
}

#[test]
fn the_driver_s_program_counts_as_ours() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let agent = Agent::start_with(lab.node("one"), &net, &["--xdp=on"]);
    nothing_is_left(agent.node(), &["--xdp=on"]);
}

#[test]
fn without_root_it_says_which_rights_it_needs() {
    let lab = Lab::new();
    lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = lab.node("one");
    let copy = unprivileged::Copy::new();
    let output = node.try_exec(&copy.line(&format!(
        "plan --bpffs={} --etcd-endpoints={} --iface={}",
        node.bpffs().display(),
        node.etcd(),
        Node::UPLINK
    )));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("CAP_BPF") && said.contains("CAP_NET_ADMIN"),
        "{said}"
    );
}
