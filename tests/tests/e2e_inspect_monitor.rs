//! `monitor` shows packets while it listens, and the programs report nothing when nobody does.

#![cfg(test)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use aya::maps::{Array, Map, MapData, RingBuf};
use flannel_agent::dataplane::Wire;
use flannel_common::event::Listen;
use flannel_common::maps::{EVENTS, LAYOUT_VERSION, LISTEN};
use flannel_tests::agent::command;
use flannel_tests::netns::output;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use serde_json::Value;

fn pinned(node: &Node, name: &str) -> Map {
    let folder = node.bpffs().join("flannel/coreos_com_network");
    let path = folder.join(format!("v{LAYOUT_VERSION}/maps")).join(name);
    Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap()
}

fn listens(node: &Node) -> bool {
    let listen: Array<MapData, Wire<Listen>> = pinned(node, LISTEN).try_into().unwrap();
    listen.get(&0, 0).unwrap().0.until != 0
}

/// A monitor that listens.
fn start(node: &Node, flags: &[&str]) -> Child {
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let all = [&["monitor", "-o", "json", &bpffs][..], flags].concat();
    let child = command(node, &all).stdout(Stdio::piped()).spawn().unwrap();
    eventually("the monitor listens", SOON, || listens(node));
    child
}

/// What it says until it ends.
fn lines(mut child: Child) -> Vec<Value> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let lines = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap());
    let lines = lines.collect();
    assert!(child.wait().unwrap().success());
    lines
}

#[test]
fn packets_are_shown_while_somebody_listens() {
    let mut pair = Pair::of_agents();
    pair.one.kill();
    let node = pair.one.node();
    let mut ring: RingBuf<MapData> = pinned(node, EVENTS).try_into().unwrap();
    pair.pod1.ping(pair.pod2.address()).count(2).succeeds();
    assert!(ring.next().is_none(), "nobody listens");

    let monitor = start(node, &["--count=4"]);
    // Only one at a time: they would take each other's events.
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let second = output(&mut command(node, &["monitor", &bpffs]));
    assert_eq!(second.status.code(), Some(2), "{second:?}");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another monitor"), "{said}");

    pair.pod1.ping(pair.pod2.address()).count(8).succeeds();
    let shown = lines(monitor);
    assert_eq!(shown.len(), 4, "{shown:?}");
    let sent = shown.iter().find(|line| line["reason"] == "encap").unwrap();
    assert_eq!(
        (&sent["program"], &sent["class"]),
        (&"overlay_tx".into(), &"forward".into())
    );
    let packet = sent["packet"].as_str().unwrap();
    let (from, to) = (pair.pod1.address(), pair.pod2.address());
    assert!(packet.contains(&format!("[icmp {from} → {to}")), "{packet}");
    assert!(!listens(node), "it has switched reports off");
}

#[test]
fn drops_alone_and_a_listener_that_was_killed() {
    let mut pair = Pair::of_agents();
    pair.one.kill();
    let node = pair.one.node();
    let monitor = start(node, &["--drops", "--count=1"]);
    pair.pod1.ping(pair.pod2.address()).count(3).succeeds();
    // No lease covers it, and somebody leads it into the tunnel all the same.
    node.exec("ip route add 10.244.255.0/24 dev flannel.1");
    let lost = pair.pod1.try_exec("ping -c 1 -W 1 10.244.255.9");
    assert!(!lost.status.success());
    let shown = lines(monitor);
    assert_eq!(shown[0]["reason"], "no_peer", "{shown:?}");

    let mut monitor = start(node, &[]);
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    assert!(listens(node));
    // The first packet after its time finds that out.
    eventually("reports end", SOON, || {
        pair.pod1.ping(pair.pod2.address()).count(1).succeeds();
        !listens(node)
    });
}
