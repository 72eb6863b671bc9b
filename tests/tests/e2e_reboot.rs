//! A node that boots while the datastore is away starts from what it last knew. flanneld has no such memory: it waits.

#![cfg(test)]

use std::fs;
use std::sync::Arc;

use flannel_tests::agent::{self, Daemon};
use flannel_tests::kube_api::KubeApi;
use flannel_tests::member::free_subnets;
use flannel_tests::netns::{output, run};
use flannel_tests::prelude::*;

const PREFIX: &str = "/coreos.com/network";

fn vxlan() -> Network {
    Network::vxlan(PREFIX, "10.244.0.0/16")
}

/// What was last written of `node`, once it names `peer`.
fn remembers(node: &Node, peer: &dyn Member) {
    let peer = peer.subnet().to_string();
    is_remembered(node, &peer);
}

/// The file as it is after its rename: an agent that ends while it writes leaves the old one.
fn is_remembered(node: &Node, peer: &str) {
    eventually(format!("{peer} is remembered"), SOON * 2, || {
        let files = fs::read_dir(node.snapshot_dir()).into_iter().flatten();
        let files = files.filter_map(|file| Some(file.ok()?.path()));
        let whole = files.filter(|file| file.extension().is_some_and(|e| e == "json"));
        let mut texts = whole.filter_map(|file| fs::read_to_string(file).ok());
        texts.any(|text| text.contains(peer))
    });
}

/// What a reboot takes: programs, maps, devices, and /run.
fn reboot(agent: Agent, net: &Network) -> Arc<Node> {
    let subnet_file = agent.subnet_file().to_owned();
    let node = agent.stop();
    let network = format!("--etcd-prefix={}", net.prefix);
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let run_dir = format!("--state-dir={}", node.state_dir().display());
    let subnet = format!("--subnet-file={}", subnet_file.display());
    run(&mut agent::command(
        &*node,
        &["cleanup", &network, &bpffs, &run_dir, &subnet],
    ));
    assert!(!node.exec("ip link").contains("flannel.1"));
    fs::remove_file(subnet_file).expect("/run is empty");
    node
}

/// What a command says on the agent's node; `flags` are of the agent.
fn ask(agent: &Agent, verb: &str, flags: &[&str]) -> String {
    let node = agent.node();
    let own = [
        format!("--bpffs={}", node.bpffs().display()),
        format!("--state-dir={}", node.state_dir().display()),
        format!("--snapshot-dir={}", node.snapshot_dir().display()),
        format!("--subnet-file={}", agent.subnet_file().display()),
        format!("--iface={}", Node::UPLINK),
    ];
    let all = own.iter().map(String::as_str).chain(flags.iter().copied());
    let all: Vec<&str> = std::iter::once(verb).chain(all).collect();
    let mut command = agent::command(node, &all);
    command.env("NODE_NAME", "one");
    let output = output(&mut command);
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}

/// It is said that the node runs by what it knew, and what another start would do.
fn is_known_to_run_by_memory(agent: &Agent, flags: &[&str]) {
    let status = ask(agent, "status", flags);
    for words in [
        "as the datastore said",
        "has not answered since the agent's start",
    ] {
        assert!(status.contains(words), "{status}");
    }
    let would = format!(
        "a start would go by it: the subnet {} and 1 peers",
        agent.subnet()
    );
    for verb in ["plan", "doctor"] {
        let said = ask(agent, verb, flags);
        assert!(said.contains(&would), "{verb}: {said}");
    }
}

fn runs_by_the_datastore(agent: &Agent, flags: &[&str]) {
    eventually("status knows that the datastore answers", SOON, || {
        let status = ask(agent, "status", flags);
        !status.contains("as the datastore said") && !status.contains("has not answered")
    });
}

fn mac_of(node: &Node) -> String {
    let link = node.exec("ip -br link show flannel.1");
    link.split_whitespace().nth(2).expect("a MAC").to_owned()
}

#[test]
fn without_etcd_a_node_boots_by_what_it_knew() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let (one, two) = (
        Agent::start(lab.node("one"), &net),
        Agent::start(lab.node("two"), &net),
    );
    let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&two, "pod2"));
    pod1.reaches(&pod2);
    let subnet = one.subnet();
    let mac = mac_of(one.node());
    remembers(one.node(), &two);
    let node = reboot(one, &net);
    lab.etcd().kill();
    let one = Agent::start(node, &net);
    assert!(
        one.log().contains("the datastore does not answer"),
        "{}",
        one.log()
    );
    assert_eq!(one.subnet(), subnet);
    assert_eq!(mac_of(one.node()), mac, "peers send to it");
    pod1.reaches(&pod2);
    pod2.reaches(&pod1);
    let endpoints = format!("--etcd-endpoints={}", lab.etcd().url());
    is_known_to_run_by_memory(&one, &[&endpoints]);
    // And it goes on from there when etcd is back: keeps its lease, and follows the others.
    lab.etcd().restart();
    eventually("the lease is kept", SOON, || {
        one.log().contains("the datastore answers")
    });
    runs_by_the_datastore(&one, &[&endpoints]);
    let three = Agent::start(lab.node("three"), &net);
    let pod3 = Pod::on(&three, "pod3");
    pod1.reaches(&pod3);
    let leases = lab.etcd().leases(&net);
    assert_eq!(leases.len(), 3);
    assert!(leases.iter().any(|(leased, _)| *leased == subnet));
    pod2.ping(pod1.address()).succeeds();
}

/// A datastore that lacks a peer may have been wiped, and live nodes take their leases again.
/// What `status` says, and with which exit status.
fn status(node: &Node) -> (Option<i32>, String) {
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let state = format!("--state-dir={}", node.state_dir().display());
    let output = output(&mut agent::command(node, &["status", &bpffs, &state]));
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

#[test]
fn status_says_that_nobody_is_followed_and_that_a_start_waits() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let mut one = Agent::start(lab.node("one"), &net);
    eventually("all is well", SOON, || status(one.node()).0 == Some(0));
    lab.etcd().kill();
    let minutes = SOON * 8;
    eventually("status says that leases are not followed", minutes, || {
        let (code, text) = status(one.node());
        code == Some(1) && text.contains("! following leases has not worked for")
    });
    one.kill();
    // Without that file a start waits.
    fs::remove_dir_all(one.node().snapshot_dir()).expect("remove what it knew");
    let node = one.stop();
    let waiting = Daemon::spawn(&node, &net, &[]);
    eventually("status says that the agent waits", SOON, || {
        let (code, text) = status(&node);
        code == Some(1)
            && text.contains(
                "ago and waits for the datastore (waiting for the network configuration): ",
            )
    });
    lab.etcd().restart();
    eventually("the agent serves", SOON, || status(&node).0 == Some(0));
    drop(waiting);
}

#[test]
fn a_peer_that_went_meanwhile_counts_for_a_while() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let one = Agent::start(lab.node("one"), &net);
    let [gone] = free_subnets(&net, &[&one]);
    let value = r#"{"PublicIP":"172.30.0.99","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:63"}}"#;
    let key = format!("{PREFIX}/subnets/{}", gone.to_string().replace('/', "-"));
    lab.etcd().put(&key, value);
    let is_reached = |node: &Node| node.exec("ip route").contains(&gone.to_string());
    eventually("the peer is reached", SOON, || is_reached(one.node()));
    is_remembered(one.node(), &gone.to_string());
    let node = reboot(one, &net);
    lab.etcd().delete(&key);
    lab.etcd().kill();
    let one = Agent::start(node, &net);
    assert!(is_reached(one.node()));
    lab.etcd().restart();
    eventually("the lease is kept", SOON, || {
        one.log().contains("the datastore answers")
    });
    assert!(is_reached(one.node()));
    eventually("after a minute it is forgotten", 8 * SOON, || {
        !is_reached(one.node())
    });
}

#[test]
fn without_the_api_server_a_node_boots_by_what_it_knew() {
    let lab = Lab::new();
    let net = vxlan();
    let api = KubeApi::start(&lab);
    let flags = api.flags(&net);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    for (name, cidr) in [("one", "10.244.1.0/24"), ("two", "10.244.2.0/24")] {
        api.add_node(name, &[cidr]);
    }
    let one = Agent::start_with(lab.node("one"), &net, &flags);
    let two = Agent::start_with(lab.node("two"), &net, &flags);
    let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&two, "pod2"));
    pod1.reaches(&pod2);
    remembers(one.node(), &two);
    let node = reboot(one, &net);
    api.kill();
    let one = Agent::start_with(node, &net, &flags);
    assert_eq!(one.subnet().to_string(), "10.244.1.0/24");
    pod1.reaches(&pod2);
    pod2.reaches(&pod1);
    is_known_to_run_by_memory(&one, &flags);
    api.restart();
    eventually("its Node is followed", SOON * 2, || {
        one.log().contains("the datastore answers")
    });
    runs_by_the_datastore(&one, &flags);
    api.add_node("three", &["10.244.3.0/24"]);
    let three = Agent::start_with(lab.node("three"), &net, &flags);
    let pod3 = Pod::on(&three, "pod3");
    pod1.reaches(&pod3);
    pod2.ping(pod1.address()).succeeds();
}

/// An agent that ends for good takes its memory along.
#[test]
fn cleanup_forgets() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let (one, two) = (
        Agent::start(lab.node("one"), &net),
        Agent::start(lab.node("two"), &net),
    );
    remembers(one.node(), &two);
    let subnet = format!("--subnet-file={}", one.subnet_file().display());
    let node = one.stop();
    let folder = format!("--snapshot-dir={}", node.snapshot_dir().display());
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let run_dir = format!("--state-dir={}", node.state_dir().display());
    let network = format!("--etcd-prefix={PREFIX}");
    run(&mut agent::command(
        &*node,
        &["cleanup", &network, &bpffs, &run_dir, &subnet, &folder],
    ));
    let left = fs::read_dir(node.snapshot_dir()).expect("the folder stays");
    assert_eq!(left.count(), 0);
}
