//! Another build takes over from the one that runs: what is forwarded and translated goes on.

#![cfg(test)]

use std::net::SocketAddrV4;

use flannel_common::maps::LAYOUT_VERSION;
use flannel_tests::agent::Build;
use flannel_tests::fast_path::{hooked, received, sent, talk_udp};
use flannel_tests::lab::Options;
use flannel_tests::prelude::*;
use flannel_tests::stage::{CLUSTER, Neighbour, Stage};
use flannel_tests::udp::{Flow, assert_nothing_lost};
use flannel_tests::{talk, tcp};
use rstest::rstest;

const PREFIX: &str = "/coreos.com/network";

fn vxlan() -> Network {
    Network::vxlan(PREFIX, CLUSTER)
}

/// Pod to pod both ways, and pod to the outside.
fn flows(stage: &Stage, neighbour: &Neighbour) -> [Flow; 3] {
    let (near, far) = (&stage.pod, &neighbour.pod);
    [
        Flow::start(near, far, far.address()),
        Flow::start(far, near, near.address()),
        Flow::start(near, &stage.outside, stage.outside.address()),
    ]
}

fn layouts(stage: &Stage) -> Vec<String> {
    let folder = stage.node.node().bpffs().join("flannel/coreos_com_network");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("the network's pin folder")
        .map(|entry| entry.expect("an entry").file_name().into_string())
        .map(|name| name.expect("UTF-8"))
        .filter(|name| name.starts_with('v'))
        .collect();
    names.sort();
    names
}

fn layout(version: u32) -> Vec<String> {
    vec![format!("v{version}")]
}

/// Connections from the pod to the server outside: one that there is already, and a new one.
struct Connections {
    server: tcp::Server,
    to: SocketAddrV4,
    old: talk::Tcp,
}

impl Connections {
    fn open(stage: &Stage) -> Self {
        let server = tcp::Server::on(&stage.outside);
        let to = SocketAddrV4::new(stage.outside.address(), server.port());
        let mut old = talk::Tcp::open(&server, &stage.pod, to);
        old.rounds(5);
        Self { server, to, old }
    }

    fn go_on(mut self, stage: &Stage) {
        self.old.rounds(5);
        self.old.close();
        let seen = self.server.exchange(&stage.pod, self.to, 10_000);
        assert_eq!(seen.client.ip(), stage.address());
    }
}

#[test]
fn the_same_layout_swaps_programs_and_loses_nothing() {
    let mut stage = Stage::new();
    let neighbour = stage.neighbour(&[]);
    let connections = Connections::open(&stage);
    let flows = flows(&stage, &neighbour);
    stage
        .node
        .upgrade(Build::This, &["--ip-masq", "--source-check=off"]);
    connections.go_on(&stage);
    assert_nothing_lost(flows);
    assert_eq!(layouts(&stage), layout(LAYOUT_VERSION));
}

#[test]
fn the_next_layout_takes_leases_and_translated_connections_along() {
    let mut stage = Stage::new();
    let neighbour = stage.neighbour(&[]);
    let connections = Connections::open(&stage);
    let flows = flows(&stage, &neighbour);
    stage.node.upgrade(Build::NextLayout, &["--ip-masq"]);
    connections.go_on(&stage);
    assert_nothing_lost(flows);
    assert_eq!(layouts(&stage), layout(LAYOUT_VERSION + 1));
    let log = stage.node.log();
    let carried = format!("carry translated connections over from layout v{LAYOUT_VERSION}");
    assert!(log.contains(&carried), "{log}");
}

/// Of a way that is not the default's.
#[rstest]
#[case::anchor(vxlan(), &["--gro=anchor"])]
#[case::udp(Network::udp(PREFIX, CLUSTER), &[])]
#[case::direct_routing(vxlan().direct_routing(), &[])]
fn the_next_layout_takes_over_from_a_fast_flow(#[case] net: Network, #[case] flags: &[&str]) {
    let mut stage = Stage::of(net, Options::default(), flags);
    let neighbour = stage.neighbour(flags);
    let connections = Connections::open(&stage);
    hooked(&stage.node);
    hooked(&neighbour.node);
    let talk = talk_udp(&stage.pod, &neighbour.pod);
    talk.rounds(100);
    let (out, back) = (sent(&stage.node), received(&stage.node));
    assert!(out > 50 && back > 50, "of 100 rounds {out} and {back}");
    let flows = flows(&stage, &neighbour);
    let all = [&["--ip-masq"], flags].concat();
    stage.node.upgrade(Build::NextLayout, &all);
    talk.rounds(100);
    connections.go_on(&stage);
    assert_nothing_lost(flows);
    assert_eq!(layouts(&stage), layout(LAYOUT_VERSION + 1));
    stage.pod.ping(neighbour.pod.address()).succeeds();
    neighbour.pod.ping(stage.pod.address()).succeeds();
}

/// Nobody who steps back knows what the later layout means: nothing of it is read, and pods reach each other all
/// the same.
#[test]
fn an_earlier_layout_reads_nothing_of_a_later_one() {
    let mut stage = Stage::new();
    let neighbour = stage.neighbour(&[]);
    stage.node.upgrade(Build::NextLayout, &["--ip-masq"]);
    let [there, back, outside] = flows(&stage, &neighbour);
    stage.node.upgrade(Build::This, &["--ip-masq"]);
    assert_nothing_lost([there, back]);
    assert!(outside.finish().sent > 0);
    Connections::open(&stage).go_on(&stage);
    assert_eq!(layouts(&stage), layout(LAYOUT_VERSION));
    let log = stage.node.log();
    assert!(!log.contains("carry translated connections"), "{log}");
}
