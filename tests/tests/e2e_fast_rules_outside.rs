//! Rules that change packets to the outside and from there, without translating them: as with flanneld they are on every
//! packet, of fast flows too.

#![cfg(test)]

use flannel_common::program::Program::OutsideRx;
use flannel_common::reason::Reason;
use flannel_tests::bpftool::count;
use flannel_tests::fast_path::{hooked_if_ours, sent};
use flannel_tests::netns::Netns;
use flannel_tests::pair::Kind::{self, Flanneld, Ours};
use flannel_tests::prelude::*;
use flannel_tests::stage::{CLUSTER, Stage};
use flannel_tests::with_daemon::AnyDaemon;
use rstest::rstest;

const ROUNDS: usize = 200;

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", CLUSTER)
}

fn host_gw() -> Network {
    Network::host_gw("/coreos.com/network", CLUSTER)
}

const AT_BRIDGE: &[&str] = &["--pod-hook=bridge"];

fn stage(kind: Kind, net: Network, flags: &[&str]) -> Stage<AnyDaemon> {
    let stage = Stage::on_with(kind, net, flags);
    hooked_if_ours(&stage.node);
    stage
}

fn rule(stage: &Stage<AnyDaemon>, rule: &str) {
    let chain = "iptables-nft -t mangle -A FORWARD";
    stage.node.exec(&format!("{chain} {rule}"));
}

/// Packets past the stack so far, out and back; the control counts none.
fn fast(stage: &Stage<AnyDaemon>) -> Option<(u64, u64)> {
    let back = |agent| count(agent, OutsideRx, Reason::FastRx);
    stage.node.agent().map(|agent| (sent(agent), back(agent)))
}

#[track_caller]
fn was_fast(stage: &Stage<AnyDaemon>) {
    if let Some((out, back)) = fast(stage) {
        assert!(out > 300 && back > 300, "{out} and {back}");
    }
}

/// Talks by both protocols with flows that last: the packets that reached the server, and those that reached the pod.
fn talked(stage: &Stage<AnyDaemon>) -> [Vec<Vec<u8>>; 2] {
    let mut tcp = stage.lasting_tcp();
    let udp = stage.lasting_udp();
    let watch = |netns: &Netns, address| {
        let filter = format!("(udp or tcp) and dst host {address}");
        Capture::inside(stage.node.node(), netns, "eth0", &filter)
    };
    let captures = [
        watch(stage.outside.netns(), stage.outside.address()),
        watch(stage.pod.netns(), stage.pod.address()),
    ];
    tcp.rounds(ROUNDS);
    udp.rounds(ROUNDS);
    tcp.close();
    captures.map(|capture| {
        capture.packets(2 * ROUNDS);
        capture.finish()
    })
}

/// The bytes at one place of all IPv4 headers, each once.
fn values(packets: &[Vec<u8>], at: usize) -> Vec<u8> {
    let mut values: Vec<u8> = packets.iter().map(|packet| packet[14 + at]).collect();
    values.sort_unstable();
    values.dedup();
    values
}

const TOS: usize = 1;
const TTL: usize = 8;

#[rstest]
#[case::vxlan(Ours, vxlan(), &[])]
#[case::at_the_bridge(Ours, vxlan(), AT_BRIDGE)]
#[case::direct_routing(Ours, vxlan().direct_routing(), &[])]
#[case::host_gw(Ours, host_gw(), &[])]
#[case::host_gw_at_the_bridge(Ours, host_gw(), AT_BRIDGE)]
#[case::flanneld(Flanneld, vxlan(), &[])]
fn a_dscp_is_on_every_packet(#[case] kind: Kind, #[case] net: Network, #[case] flags: &[&str]) {
    let stage = stage(kind, net, flags);
    rule(&stage, "-j DSCP --set-dscp 46");
    for packets in talked(&stage) {
        assert_eq!(values(&packets, TOS), [46 << 2]);
    }
    was_fast(&stage);
}

/// One router takes one off.
#[rstest]
#[case::vxlan(Ours, vxlan(), &[])]
#[case::at_the_bridge(Ours, vxlan(), AT_BRIDGE)]
#[case::host_gw(Ours, host_gw(), &[])]
#[case::flanneld(Flanneld, vxlan(), &[])]
fn a_ttl_is_on_every_packet(#[case] kind: Kind, #[case] net: Network, #[case] flags: &[&str]) {
    let stage = stage(kind, net, flags);
    rule(&stage, "-j TTL --ttl-set 33");
    let [to_server, to_pod] = talked(&stage);
    assert_eq!(values(&to_server, TTL), [32]);
    assert_eq!(values(&to_pod, TTL), [33]);
}

/// Packets on the uplink that are in the slow class.
fn in_class(stage: &Stage<AnyDaemon>) -> usize {
    let shown = stage.node.exec("tc -s class show dev eth0 classid 1:10");
    let sent = shown.lines().find(|line| line.contains("Sent")).unwrap();
    sent.split_whitespace().nth(3).unwrap().parse().unwrap()
}

/// Loads the mark (`SKF_AD_MARK`), compares it with 5.
const MARK_IS_5: &str = "4,32 0 0 4294963220,21 0 1 5,6 0 0 4294967295,6 0 0 0";

#[rstest]
#[case::vxlan(Ours, vxlan(), &[])]
#[case::at_the_bridge(Ours, vxlan(), AT_BRIDGE)]
#[case::direct_routing(Ours, vxlan().direct_routing(), &[])]
#[case::host_gw(Ours, host_gw(), &[])]
#[case::flanneld(Flanneld, vxlan(), &[])]
fn a_class_is_every_packet_s(
    #[case] kind: Kind,
    #[case] net: Network,
    #[case] flags: &[&str],
    #[values("-j CLASSIFY --set-class 1:10", "-j MARK --set-mark 5")] target: &str,
) {
    let stage = stage(kind, net, flags);
    let file = stage.node.node().folder().join("mark-is-5");
    std::fs::write(&file, MARK_IS_5).unwrap();
    for line in [
        "qdisc add dev eth0 root handle 1: htb default 20".to_owned(),
        "class add dev eth0 parent 1: classid 1:10 htb rate 10mbit".to_owned(),
        "class add dev eth0 parent 1: classid 1:20 htb rate 10gbit".to_owned(),
        format!(
            "filter add dev eth0 parent 1: bpf bytecode-file {} flowid 1:10",
            file.display()
        ),
    ] {
        stage.node.exec(&format!("tc {line}"));
    }
    let pod = stage.pod.address();
    rule(&stage, &format!("-s {pod} {target}"));
    let [to_server, _] = talked(&stage);
    was_fast(&stage);
    let slow = in_class(&stage);
    assert!(slow >= to_server.len(), "{slow} of {}", to_server.len());
}
