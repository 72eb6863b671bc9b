//! A node with 5,000 leases and 100,000 flows: every command ends, streams, and holds up nobody.

#![cfg(test)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Output, Stdio};

use aya::maps::{Array, MapData};
use flannel_agent::dataplane::Wire;
use flannel_common::event::Listen;
use flannel_common::flow::Flow;
use flannel_common::maps::LISTEN;
use flannel_tests::agent::command;
use flannel_tests::fill;
use flannel_tests::netns::output;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use serde_json::Value;

const PEERS: u32 = 5_000;
const FLOWS: u32 = 100_000;

fn full() -> Pair<Agent> {
    let mut pair = Pair::of_agents();
    pair.one.kill();
    fill::peers(pair.one.node(), PEERS);
    fill::flows(pair.one.node(), FLOWS);
    pair
}

fn arguments(node: &Node, line: &str) -> Vec<String> {
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let words = line.split_whitespace().map(str::to_owned);
    words.chain([bpffs]).collect()
}

fn look(node: &Node, line: &str) -> Output {
    let all = arguments(node, line);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    output(&mut command(node, &all))
}

/// The same, read by us at our leisure.
fn start(node: &Node, line: &str) -> Child {
    let all = arguments(node, line);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    command(node, &all).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_reader_that_stops_in_the_middle_holds_up_no_packet_and_no_entry() {
    let pair = full();
    let node = pair.one.node();
    let mut flows = start(node, "flows -o json");
    let mut lines = BufReader::new(flows.stdout.take().unwrap()).lines();
    // A pipe holds a few hundred lines: from here on it waits for us.
    lines.next().unwrap().unwrap();
    assert!(flows.try_wait().unwrap().is_none(), "it streams");
    let mut table = fill::flow_table(node);
    let new = Wire(fill::flow(u32::MAX));
    table.insert(new, Wire(Flow::EMPTY), 0).unwrap();
    table.get(&new, 0).unwrap();
    table.remove(&new).unwrap();
    pair.pod1.ping(pair.pod2.address()).count(5).succeeds();
    let rest = lines.map(|line| line.unwrap());
    let shown = rest.filter(|line| line.contains("10.99.0.1")).count();
    // An LRU gives some away before it is full.
    assert!(shown >= FLOWS as usize * 9 / 10, "{shown}");
    assert!(flows.wait().unwrap().success());
}

#[test]
fn a_trace_finds_its_way_and_leaves_the_tables_as_they_are() {
    let pair = full();
    let node = pair.one.node();
    let count = || fill::flow_table(node).keys().count();
    let before = count();
    let line = format!(
        "trace {} {} -o json",
        pair.pod1.address(),
        pair.pod2.address()
    );
    let output = look(node, &line);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["end"], "sent", "{report}");
    assert_eq!(count(), before);
    // The address of a lease that was filled in.
    let line = format!("trace {} 11.0.7.9 -o json", pair.pod1.address());
    let output = look(node, &line);
    assert!(output.status.code() < Some(2), "{output:?}");
}

#[test]
fn a_monitor_ends_and_one_that_nobody_reads_loses_events_and_no_packets() {
    let pair = full();
    let node = pair.one.node();
    let listens = || {
        let listen: Array<MapData, Wire<Listen>> = fill::pinned(node, LISTEN).try_into().unwrap();
        listen.get(&0, 0).unwrap().0.until != 0
    };
    let monitor = start(node, "monitor -o json --count=20");
    eventually("the monitor listens", SOON, listens);
    pair.pod1.ping(pair.pod2.address()).count(30).succeeds();
    let ended = monitor.wait_with_output().unwrap();
    assert!(ended.status.success());
    let shown = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(shown.lines().count(), 20, "{shown}");

    let mut monitor = start(node, "monitor -o json");
    eventually("it listens again", SOON, listens);
    // Until the pipe is full, the monitor stuck, its time over: the programs stop by themselves.
    eventually("reports have ended", SOON * 4, || {
        for _ in 0..4 {
            pair.pod1.ping(pair.pod2.address()).count(50).succeeds();
        }
        !listens()
    });
    assert!(monitor.try_wait().unwrap().is_none());
    monitor.kill().unwrap();
    monitor.wait().unwrap();
}
