//! `nat` shows the table of source NAT: both halves as one line, also when the agent is dead and the table full.

#![cfg(test)]

use std::process::Output;

use aya::maps::{HashMap, Map, MapData};
use flannel_agent::dataplane::Wire;
use flannel_common::maps::{LAYOUT_VERSION, SNAT};
use flannel_common::snat::{Endpoint, Entry, KIND_LEAVE, KIND_PAIR, Key, NANOS, Seen, WAY_OUT};
use flannel_tests::agent::command;
use flannel_tests::netns::output;
use flannel_tests::prelude::*;
use serde_json::Value;

type Table = HashMap<MapData, Wire<Key>, Wire<Entry>>;

const NODE: [u8; 4] = [172, 30, 0, 11];

fn nat(node: &Node, line: &str) -> Output {
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let flags: Vec<&str> = ["nat", bpffs.as_str()]
        .into_iter()
        .chain(line.split_whitespace())
        .collect();
    output(&mut command(node, &flags))
}

#[track_caller]
fn rows(node: &Node, line: &str) -> Vec<Value> {
    let output = nat(node, &format!("{line} -o json"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn table(node: &Node) -> Table {
    let folder = node.bpffs().join("flannel/coreos_com_network");
    let path = folder.join(format!("v{LAYOUT_VERSION}/maps")).join(SNAT);
    let map = Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap();
    map.try_into().unwrap()
}

/// The programs' clock, in whole seconds.
fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes to a timespec of ours.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    assert_eq!(result, 0);
    u64::try_from(time.tv_sec).unwrap() * NANOS
}

fn key(number: u16) -> Key {
    Key {
        src: [10, 244, 1, 5],
        dst: [198, 51, 100, 9],
        src_port: number.to_be_bytes(),
        dst_port: 443_u16.to_be_bytes(),
        proto: 6,
        way: WAY_OUT,
        pad: [0; 2],
    }
}

/// Both halves of an established flow, seen a minute ago.
fn enter(table: &mut Table, number: u16) {
    let (out, us) = (
        key(number),
        Endpoint {
            addr: NODE,
            port: number.to_be_bytes(),
        },
    );
    let seen = Seen::SYN | Seen::ACK;
    let at = now() - 60 * NANOS;
    let entry = Entry::new(KIND_PAIR, us, Seen::out(seen), at);
    table.insert(Wire(out), Wire(entry), 0).unwrap();
    let entry = Entry::new(KIND_PAIR, out.source(), Seen::back(seen), at);
    table
        .insert(Wire(out.reply_to(us)), Wire(entry), 0)
        .unwrap();
}

#[test]
fn flows_are_shown_once_with_pod_node_and_remote() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let mut agent = Agent::start(lab.node("one"), &net);
    agent.kill();
    let node = agent.node();
    assert_eq!(rows(node, ""), Vec::<Value>::new());

    let mut table = table(node);
    enter(&mut table, 50_001);
    let kept = Key {
        src: [10, 244, 1, 6],
        ..key(80)
    };
    let entry = Entry::new(KIND_LEAVE, kept.source(), Seen::out(Seen::ACK), now());
    table.insert(Wire(kept), Wire(entry), 0).unwrap();

    let shown = rows(node, "");
    assert_eq!(shown.len(), 2, "{shown:?}");
    let shown = rows(node, "--pod=10.244.1.5");
    assert_eq!(shown.len(), 1, "{shown:?}");
    let flow = &shown[0];
    assert_eq!(flow["pod"], "10.244.1.5:50001");
    assert_eq!(flow["node"], "172.30.0.11:50001");
    assert_eq!(flow["remote"], "198.51.100.9:443");
    assert_eq!(
        (&flow["state"], &flow["kind"]),
        (&"established".into(), &"snat".into())
    );
    let left = flow["left_seconds"].as_u64().unwrap();
    assert!((431_600..=431_940).contains(&left), "{flow}");

    // The LRU took a half.
    let us = Endpoint {
        addr: NODE,
        port: 50_001_u16.to_be_bytes(),
    };
    table.remove(&Wire(key(50_001))).unwrap();
    let shown = rows(node, "--pod=10.244.1.5");
    assert_eq!(shown[0]["half"], "in", "{shown:?}");
    table.remove(&Wire(key(50_001).reply_to(us))).unwrap();
    let text = String::from_utf8(nat(node, "").stdout).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("kept"), "{text}");
}

#[test]
fn a_full_table_is_streamed() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let agent = Agent::start(lab.node("one"), &net);
    let mut table = table(agent.node());
    // More than it holds, whatever its size is: the LRU takes some, of either way.
    for number in 1..20_000 {
        enter(&mut table, number);
    }
    let output = agent.exec(&format!(
        "{} maps fl_snat -o json --bpffs={}",
        flannel_tests::agent::binary(),
        agent.node().bpffs().display()
    ));
    let rows: Vec<Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(rows.len() > 100, "{}", rows.len());
    let mut pods: Vec<&str> = rows
        .iter()
        .map(|row| row["pod"].as_str().unwrap())
        .collect();
    pods.sort_unstable();
    let all = pods.len();
    pods.dedup();
    assert_eq!(pods.len(), all, "a flow is shown once");
}

#[test]
fn a_node_without_a_network_says_so() {
    let lab = Lab::new();
    let output = nat(&lab.node("empty"), "");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("no network has anything pinned"), "{said}");
}
