//! `status`, `peers`, `routes`, `flows`, `maps` and `stats` read what is pinned: with the agent, after it died,
//! on a node that has nothing, on one that is full, and without the right to look.

#![cfg(test)]

use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};

use flannel_common::maps::FLOWS;
use flannel_tests::agent::command;
use flannel_tests::fast_path::hooked;
use flannel_tests::netns::output;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use flannel_tests::{fill, unprivileged};
use serde_json::Value;

/// `flannel-agent LINE --bpffs=…` on `node`.
fn look(node: &Node, line: &str) -> Output {
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let flags: Vec<&str> = line.split_whitespace().chain([bpffs.as_str()]).collect();
    output(&mut command(node, &flags))
}

#[track_caller]
fn json(node: &Node, line: &str, status: i32) -> Value {
    let output = look(node, &format!("{line} -o json"));
    assert_eq!(output.status.code(), Some(status), "{line}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{line}: {e}: {output:?}"))
}

#[track_caller]
fn text(node: &Node, line: &str) -> String {
    let output = look(node, line);
    assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_healthy_node_is_ok_and_without_its_agent_it_needs_attention() {
    let mut pair = Pair::of_agents();
    let other = pair.two.node().address().to_string();
    let subnet = pair.two.subnet_env().subnet().to_string();

    let state = format!("--state-dir={}", pair.one.node().state_dir().display());
    hooked(&pair.one);
    eventually("the agent has done what it saw last", SOON, || {
        let status = look(pair.one.node(), &format!("status {state}"));
        status.status.code() == Some(0)
    });
    let status = json(pair.one.node(), &format!("status {state}"), 0);
    assert_eq!(status["verdict"], "ok", "{status}");
    let lease = &status["lease"];
    let left = lease["expires_in_s"].as_i64().unwrap();
    let day = 24 * 3600;
    assert!((day - 600..=day).contains(&left), "{status}");
    assert_eq!(left - lease["renewal_in_s"].as_i64().unwrap(), 3600);
    let last = &status["last_reconcile"];
    assert!(last["ago_s"].as_u64() < Some(600), "{status}");
    assert!(!last["causes"].as_array().unwrap().is_empty(), "{status}");
    assert_eq!(status["error"], Value::Null);
    assert_eq!(status["agent_running"], true);
    assert_eq!(status["peers"], 1);
    let uplink = pair.one.node().address().to_string();
    assert_eq!(status["told"]["uplink_ip"], uplink.as_str(), "{status}");
    assert_eq!(status["told"]["network"], "10.244.0.0/16");
    let own = pair.one.subnet_env().subnet().to_string();
    assert_eq!(status["told"]["subnet"], own.as_str());

    pair.one.kill();
    let status = json(pair.one.node(), "status", 1);
    assert_eq!(status["agent_running"], false);
    let shown = look(pair.one.node(), &format!("status {state}")).stdout;
    let shown = String::from_utf8(shown).unwrap();
    assert!(
        shown.contains("! no agent runs for this network"),
        "{shown}"
    );
    let of_the_past = format!("Lease      {own}, expires in 23 h 5");
    assert!(shown.contains(&of_the_past), "{shown}");
    assert!(shown.contains("\nCompared "), "{shown}");

    let node = pair.one.node();
    let peers = text(node, "peers");
    assert!(peers.contains(&other) && peers.contains(&subnet), "{peers}");
    let peers = json(node, "peers", 0);
    assert_eq!(peers[0]["public_ip"], other.as_str());
    let routes = json(node, "routes", 0);
    let mut ours = routes
        .as_array()
        .unwrap()
        .iter()
        .filter(|r| r["ours"] == true);
    let route = ours.next().unwrap();
    assert_eq!(route["destination"], subnet.as_str(), "{routes}");
    assert_eq!(route["note"], "a peer by the tunnel");
    assert!(ours.next().is_none(), "{routes}");
    let before = packets(&json(node, "stats", 0), "encap");
    pair.pod1.ping(pair.pod2.address()).count(3).succeeds();
    assert_eq!(packets(&json(node, "stats", 0), "encap"), before + 3);
    for map in ["fl_peers", "fl_vteps", "fl_flows", "fl_epoch", "fl_stats"] {
        assert!(text(node, "maps").contains(map));
        text(node, &format!("maps {map}"));
    }
    text(node, "flows");
}

fn packets(stats: &Value, reason: &str) -> u64 {
    let rows = stats.as_array().unwrap().iter();
    rows.filter(|row| row["reason"] == reason)
        .map(|row| row["packets"].as_u64().unwrap())
        .sum()
}

#[test]
fn a_program_on_no_hook_is_broken() {
    let mut pair = Pair::of_agents();
    pair.one.kill();
    let node = pair.one.node();
    let links = node.bpffs().join("flannel/coreos_com_network/links");
    let pin = std::fs::read_dir(&links)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("/uplink_rx-"))
        .unwrap();
    std::fs::remove_file(pin).unwrap();
    let status = json(node, "status", 2);
    assert_eq!(status["verdict"], "broken");
    let findings = status["findings"].to_string();
    assert!(findings.contains("uplink_rx is on no hook"), "{findings}");
}

#[test]
fn a_node_without_a_network_says_so() {
    let lab = Lab::new();
    let node = lab.node("empty");
    for line in [
        "status",
        "peers",
        "routes",
        "flows",
        "maps",
        "maps fl_peers",
        "stats",
        "nat",
        "trace 10.244.1.2 10.244.2.2",
        "monitor",
    ] {
        let output = look(&node, line);
        assert_eq!(output.status.code(), Some(2), "{line}: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("no network has anything pinned"),
            "{line}: {said}"
        );
    }
}

#[test]
fn two_networks_have_to_be_named() {
    let lab = Lab::new();
    let one = lab.network(Network::vxlan("/one", "10.1.0.0/16"));
    let other = lab.network(Network::vxlan("/two", "10.2.0.0/16").vni(2).port(8473));
    let node = std::sync::Arc::new(lab.node("node"));
    let agents = [
        Agent::start(node.clone(), &one),
        Agent::start(node.clone(), &other),
    ];
    let output = look(&node, "peers");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("--network one of one, two"), "{said}");
    let status = json(&node, "status --network=/two", 0);
    assert_eq!(status["told"]["network"], "10.2.0.0/16", "{status}");
    drop(agents);
}

#[test]
fn without_root_it_says_what_is_missing() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let agent = Agent::start(lab.node("one"), &net);
    let copy = unprivileged::Copy::new();
    for line in [
        "status",
        "peers",
        "flows",
        "nat",
        "stats",
        "maps",
        "routes",
        "trace 10.244.1.2 10.244.2.2",
        "monitor --count=1",
    ] {
        let bpffs = agent.node().bpffs();
        let line_with = format!("{line} --bpffs={}", bpffs.display());
        let output = agent.node().try_exec(&copy.line(&line_with));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{line}: {said}");
        assert!(said.contains("run it as root"), "{line}: {said}");
    }
}

#[test]
fn a_full_node_is_shown_whole() {
    const PEER_COUNT: u32 = 5_000;
    const FLOW_COUNT: u32 = 100_000;

    let mut pair = Pair::of_agents();
    pair.one.kill();
    let node = pair.one.node();
    fill::peers(node, PEER_COUNT);
    fill::flows(node, FLOW_COUNT);
    let shown = json(node, "peers", 0).as_array().unwrap().len();
    assert_eq!(shown, PEER_COUNT as usize + 1);
    let shown = text(node, "flows --pod=10.99.0.1 -o json").lines().count();
    // An LRU gives some away before it is full.
    let expected = FLOW_COUNT as usize;
    assert!((expected * 9 / 10..=expected).contains(&shown), "{shown}");
    assert_eq!(
        text(node, "flows --pod=10.99.0.1 --live").lines().count(),
        1
    );
    let maps = json(node, "maps", 0);
    let flows = maps
        .as_array()
        .unwrap()
        .iter()
        .find(|map| map["name"] == FLOWS);
    assert!(
        flows.unwrap()["entries"].as_u64().unwrap() >= shown as u64,
        "{maps}"
    );
}

#[test]
fn a_watch_repeats_itself() {
    let pair = Pair::of_agents();
    let bpffs = format!("--bpffs={}", pair.one.node().bpffs().display());
    let flags = ["stats", "-o", "json", "--watch=1", &bpffs];
    let mut child = command(pair.one.node(), &flags)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = lines.next().unwrap().unwrap();
        assert!(serde_json::from_str::<Value>(&line).unwrap().is_array());
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
