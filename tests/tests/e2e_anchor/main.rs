//! `--gro=anchor`: a kernel vxlan device without a VNI makes the first GRO pass know the VXLAN port, and what the programs leave
//! to the stack comes back by it. The control is flanneld, whose own device does both.

#![cfg(test)]

mod networks;
mod others;

use std::net::SocketAddrV4;

use flannel_common::maps::STATS;
use flannel_common::program::Program;
use flannel_common::program::Program::{AnchorRx, OverlayRx, UplinkRx};
use flannel_common::reason::Reason;
use flannel_tests::bpftool::{count, dump};
use flannel_tests::fast_path::{fast, hooked, hooked_if_ours, talk_tcp, to};
use flannel_tests::iptables::Iptables;
use flannel_tests::kube_proxy::Service;
use flannel_tests::lab::Options;
use flannel_tests::pair::{Kind, Pair, Way};
use flannel_tests::prelude::*;
use flannel_tests::udp::assert_nothing_lost;
use flannel_tests::with_daemon::start;
use flannel_tests::{flannel_rules, no_tcx, sockopt, tcp, udp};
use rstest::rstest;

const ANCHOR: &[&str] = &["--gro=anchor"];
const DEVICE: &str = "flanchor.8472";

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

fn lab(wire: Wire) -> Lab {
    Lab::with(Options {
        wire,
        ..Options::default()
    })
}

fn pair(kind: Kind, wire: Wire, flags: &[&str]) -> Pair<AnyDaemon> {
    let lab = lab(wire);
    let net = lab.network(vxlan());
    let flags = if kind == Kind::Ours { flags } else { &[] };
    let [one, two] = ["one", "two"].map(|name| start(kind, lab.node(name), &net, flags));
    let pair = Pair::of(lab, net, one, two);
    if !flags.contains(&"--fast-path=off") {
        hooked_if_ours(&pair.one);
        hooked_if_ours(&pair.two);
    }
    pair
}

fn has_anchor(host: &(impl Host + ?Sized)) -> bool {
    host.exec("ip -br link show up type vxlan").contains(DEVICE)
}

/// Everything that a node carries, each kind in both directions.
#[track_caller]
fn carries_everything<A: Member, B: Member>(pair: &Pair<A, B>) {
    for Way { client, server, .. } in pair.both_ways() {
        client.ping(server.address()).succeeds();
        client.ping(server.address()).whole(1450).succeeds();
        udp::exchange(client, server, server.address(), 1000);
        udp::exchange(client, server, server.address(), 8192);
        datagrams_sent_as_one_arrive(client, server);
        let listener = tcp::Server::on(server);
        let to = to(server, listener.port());
        listener.exchange(client, to, 4 << 20);
    }
}

/// Cut up on the way, or by the receiving kernel.
#[track_caller]
fn datagrams_sent_as_one_arrive(client: &Pod, server: &Pod) {
    const SIZE: usize = 1000;
    let receiver = udp::Server::on(server);
    let sender = udp::Server::on(client).into_socket();
    sender.connect(to(server, receiver.port())).unwrap();
    sockopt::segmented(&sender, SIZE.try_into().unwrap());
    let parts = |n: u8| vec![n; SIZE];
    sender
        .send(&(0..40).flat_map(parts).collect::<Vec<_>>())
        .unwrap();
    let receiver = receiver.into_socket();
    let mut got = [0; 2 * SIZE];
    for n in 0..40 {
        let len = uninterrupted(|| receiver.recv(&mut got)).unwrap();
        assert_eq!(got[..len], parts(n), "datagram {n}");
    }
}

#[rstest]
#[case::flanneld(Kind::Flanneld, &[])]
#[case::verified(Kind::Ours, &[])]
#[case::without_proof(Kind::Ours, &["--fast-path=always"])]
#[case::without_fast_path(Kind::Ours, &["--fast-path=off"])]
#[case::at_the_bridge(Kind::Ours, &["--pod-hook=bridge"])]
#[case::at_the_driver(Kind::Ours, &["--xdp=on"])]
#[case::no_merging(Kind::Ours, &["--gro=none"])]
fn everything_arrives(
    #[case] kind: Kind,
    #[case] flags: &[&str],
    #[values(Wire::Whole, Wire::Segmented)] wire: Wire,
) {
    let anchored = !flags.contains(&"--gro=none");
    let flags = [if anchored { ANCHOR } else { &[] }, flags].concat();
    let pair = pair(kind, wire, &flags);
    carries_everything(&pair);
    let mut talk = talk_tcp(&pair.pod1, &pair.pod2);
    talk.rounds(50);
    for member in [&pair.one, &pair.two] {
        let Some(agent) = member.agent() else {
            continue;
        };
        assert_eq!(has_anchor(agent), anchored);
        assert_eq!(count(agent, UplinkRx, Reason::DecapGro), 0, "past the pair");
        assert_eq!(
            count(agent, OverlayRx, Reason::FastRxGro),
            0,
            "past the pair"
        );
        assert!(flags.contains(&"--fast-path=off") || fast(member).unwrap().1 > 20);
        // Nothing is ever sent by it.
        if anchored {
            assert!(
                !agent
                    .exec(&format!("ip addr show dev {DEVICE}"))
                    .contains("inet")
            );
            let link = agent.exec(&format!("ip -j -s link show {DEVICE}"));
            let link: serde_json::Value = serde_json::from_str(&link).unwrap();
            assert_eq!(link[0]["stats64"]["tx"]["packets"], 0);
        }
    }
}

#[test]
fn on_a_kernel_without_tcx() {
    let lab = lab(Wire::Segmented);
    let net = lab.network(vxlan());
    let [one, two] = ["one", "two"].map(|name| {
        let node = lab.node(name);
        let wrapper = no_tcx::wrapper(&node);
        Agent::start_under(&wrapper, node, &net, ANCHOR)
    });
    let mut pair = Pair::of(lab, net, one, two);
    hooked(&pair.one);
    carries_everything(&pair);
    pair.one.terminate();
    pair.one.restart_with(&["--gro=pair"]);
    assert!(!has_anchor(&pair.one));
    carries_everything(&pair);
}

/// Packets and bytes that a program counted for a reason.
fn counted(agent: &Agent, program: Program, reason: Reason) -> (u64, u64) {
    let slot = program as u64;
    let entries = dump(agent, STATS);
    let entry = entries.iter().find(|entry| entry["key"] == slot).unwrap();
    let cpus = entry["values"].as_array().unwrap().iter();
    let sum = |field: &str| {
        cpus.clone()
            .map(|cpu| cpu["value"][reason.name()][field].as_u64().unwrap())
            .sum()
    };
    (sum("packets"), sum("bytes"))
}

/// Mean length of the packets that went past the stack into a pod, which gets a stream by a wire of 1500 bytes.
fn mean_of_a_stream(flags: &[&str]) -> u64 {
    let pair = pair(Kind::Ours, Wire::Segmented, flags);
    let listener = tcp::Server::on(&pair.pod1);
    listener.exchange(&pair.pod2, to(&pair.pod1, listener.port()), 16 << 20);
    let agent = pair.one.agent().unwrap();
    let (packets, bytes) = counted(agent, UplinkRx, Reason::FastRx);
    bytes / packets
}

/// Before our program sees them: none of it crosses a pair.
#[test]
fn the_first_pass_merges_what_the_tunnel_brings() {
    let (with, without) = (mean_of_a_stream(ANCHOR), mean_of_a_stream(&["--gro=none"]));
    assert!(
        with > 2 * without,
        "{with} with an anchor, {without} without"
    );
}

/// A narrow wire on the way: see `e2e_tunnels.rs`. With the anchor there is no need for anybody who holds a socket.
#[rstest]
fn outer_fragments_arrive_while_nobody_looks_after_the_node(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let flags = if kind == Kind::Ours { ANCHOR } else { &[] };
    let one = start(kind, lab.node("one"), &net, flags);
    let two = start(kind, lab.node_behind_router("two"), &net, flags);
    let mut pair = Pair::of(lab, net, one, two);
    pair.lab
        .router()
        .exec("ip route replace 172.30.0.0/24 dev switch mtu 1000");
    pair.one.kill();
    let fragments = Capture::start(
        pair.one.node(),
        Node::UPLINK,
        "ip[6:2] & 0x3fff != 0 and src host 172.30.12.12",
    );
    pair.pod2.ping(pair.pod1.address()).whole(1450).succeeds();
    udp::exchange(&pair.pod2, &pair.pod1, pair.pod1.address(), 8192);
    let listener = tcp::Server::on(&pair.pod1);
    listener.exchange(&pair.pod2, to(&pair.pod1, listener.port()), 1 << 18);
    fragments.packets(1);
    if let Some(agent) = pair.one.agent() {
        assert!(count(agent, AnchorRx, Reason::DecapDirect) > 10);
    }
}

/// What the node forwards to others is not ours to strip once it is merged: see `uplink_rx::is_for_anchor`.
#[rstest]
fn services_and_the_outside(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(&[], &["--ip-masq"])] masq: &[&str],
    #[values(Wire::Whole, Wire::Segmented)] wire: Wire,
) {
    let lab = lab(wire);
    let net = lab.network(vxlan());
    let gro = if kind == Kind::Ours { ANCHOR } else { &[] };
    let flags = [gro, masq].concat();
    let [one, two] = ["one", "two"].map(|name| start(kind, lab.node(name), &net, &flags));
    let pair = Pair::of(lab, net, one, two);
    let outside = pair.lab.outside();
    let server = tcp::Server::on(&pair.pod2);
    let endpoint = SocketAddrV4::new(pair.pod2.address(), server.port());
    let cluster_ip = "10.96.0.10".parse().unwrap();
    let service = Service::new(cluster_ip, 80, vec![endpoint]).node_port(30_080);
    for member in [&pair.one, &pair.two] {
        service.install(member.node(), Iptables::Nft, &pair.net.cidr);
        flannel_rules::forward(member, Iptables::Nft);
    }
    server.exchange(&pair.pod1, service.address(), 4 << 20);
    server.exchange(pair.one.node(), service.address(), 1 << 20);
    // Answers come by the tunnel, to the node's own address there, and leave by the uplink.
    let to = SocketAddrV4::new(pair.one.node().address(), 30_080);
    server.exchange(&outside, to, 4 << 20);
    if let Some(agent) = pair.one.agent() {
        let left = count(agent, UplinkRx, Reason::ToAnchor);
        assert!(left > 0);
        assert_eq!(
            count(agent, AnchorRx, Reason::DecapDirect),
            left,
            "all of it, once each"
        );
    }
    if !masq.is_empty() {
        let server = tcp::Server::on(&outside);
        let seen = server.exchange(&pair.pod1, outside.at(server.port()), 1 << 20);
        assert_eq!(seen.client.ip(), pair.one.node().address());
    }
}

#[test]
fn the_way_of_merging_changes_under_running_flows() {
    let mut pair = pair(Kind::Ours, Wire::Segmented, &["--gro=pair"]);
    let flows = pair.flows();
    let mut talk = talk_tcp(&pair.pod1, &pair.pod2);
    for gro in ["anchor", "none", "anchor", "pair"] {
        pair.one.kill();
        pair.one.restart_with(&[&format!("--gro={gro}")]);
        assert_eq!(has_anchor(&pair.one), gro == "anchor", "{gro}");
        talk.rounds(20);
        let listener = tcp::Server::on(&pair.pod1);
        listener.exchange(&pair.pod2, to(&pair.pod1, listener.port()), 1 << 20);
    }
    assert_nothing_lost(flows);
    carries_everything(&pair);
}

#[test]
fn a_restart_finds_the_anchor_and_leaves_it() {
    let mut pair = pair(Kind::Ours, Wire::Whole, ANCHOR);
    let index = |host: &AnyDaemon| host.exec(&format!("ip -o link show {DEVICE}"));
    let before = index(&pair.one);
    pair.one.terminate();
    pair.one.restart_with(ANCHOR);
    assert_eq!(index(&pair.one), before);
    let log = pair.one.log();
    assert!(!log.contains(&format!("create {DEVICE}")), "{log}");
    assert!(
        log.contains(&format!("attach anchor_rx to ingress of {DEVICE}")),
        "{log}"
    );
    // Somebody deletes it, or the device that it goes with.
    for device in [DEVICE, "flannel.1"] {
        pair.one.exec(&format!("ip link del {device}"));
        eventually("it is back", SOON, || has_anchor(&pair.one));
        pair.pod1.reaches(&pair.pod2);
    }
    carries_everything(&pair);
}

/// A socket of the agent would get them one by one.
#[test]
fn datagrams_that_arrive_as_one_stay_one() {
    let pair = pair(Kind::Ours, Wire::Whole, ANCHOR);
    let agent = pair.two.agent().unwrap();
    let before = count(agent, AnchorRx, Reason::DecapDirect);
    datagrams_sent_as_one_arrive(&pair.pod1, &pair.pod2);
    assert_eq!(count(agent, AnchorRx, Reason::DecapDirect), before + 1);
}
