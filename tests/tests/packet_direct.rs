//! Peers without a tunnel (host-gw, DirectRouting), packet by packet: what proves a flow, what it may then skip.

#![cfg(test)]

use flannel_common::flow::{LIFETIME, REFRESH};
use flannel_common::globals::{FAST_PATH_ALWAYS, FAST_PATH_OFF};
use flannel_common::maps::{PEER_DIRECT, PEER_VXLAN};
use flannel_common::program::Program::{
    DirectRx, DirectTx, OverlayRx, OverlayTx, PodRx, PodTx, UplinkRx,
};
use flannel_common::reason::Reason;
use flannel_tests::packet::flows::{FIN_ACK, SYN, SYN_ACK, age, change_flow, tcp_key, udp_key};
use flannel_tests::packet::{Fixture, Inner, Node, REDIRECT, Run, UNSPEC, vxlan};
use rstest::rstest;

/// A node whose peer is routed to.
fn node_with(node: &Node) -> Fixture {
    let mut node = node.load_among_peers();
    node.direct_peer(Node::PEER_SUBNET, 24, Node::PEER_IP);
    node
}

fn node() -> Fixture {
    node_with(&Node::default())
}

/// As it comes out of the wire: to the device's own MAC, which in a test run is the loopback device's.
fn arriving() -> Inner {
    Inner {
        dst_mac: [0; 6],
        ..Inner::inbound()
    }
}

/// A packet from the pod through the stack and out of the uplink.
fn through_the_stack_out(node: &mut Fixture, make: fn(&Inner) -> Vec<u8>) {
    assert_eq!(node.run(PodTx, &make(&Inner::from_pod())).action, UNSPEC);
    assert_eq!(node.run(DirectTx, &make(&Inner::outbound())).action, UNSPEC);
}

/// A packet from the uplink through the stack to the pod.
fn through_the_stack_in(node: &mut Fixture, make: fn(&Inner) -> Vec<u8>) {
    assert_eq!(node.run(DirectRx, &make(&arriving())).action, UNSPEC);
    assert_eq!(node.run(PodRx, &make(&Inner::to_pod())).action, UNSPEC);
}

fn verified_tcp() -> Fixture {
    let mut node = node();
    through_the_stack_out(&mut node, Inner::tcp);
    through_the_stack_in(&mut node, Inner::tcp);
    node
}

fn is_fast_out(node: &mut Fixture) -> bool {
    node.run(PodTx, &Inner::from_pod().tcp()).action == REDIRECT
}

fn is_fast_in(node: &mut Fixture) -> bool {
    node.run(DirectRx, &arriving().tcp()).action == REDIRECT
}

#[test]
fn tcp_is_fast_when_both_directions_came_through_the_stack() {
    let mut node = node();
    through_the_stack_out(&mut node, Inner::tcp);
    assert!(!is_fast_out(&mut node), "one direction proves nothing");
    through_the_stack_in(&mut node, Inner::tcp);
    assert!(is_fast_out(&mut node) && is_fast_in(&mut node));
    assert_eq!(node.count(PodTx, Reason::FastTx).packets, 1);
    assert_eq!(node.count(DirectRx, Reason::FastRx).packets, 1);
}

#[test]
fn udp_is_fast_in_each_direction_on_its_own() {
    let mut node = node();
    through_the_stack_out(&mut node, Inner::udp);
    assert_eq!(node.run(PodTx, &Inner::from_pod().udp()).action, REDIRECT);
    let mut node = self::node();
    through_the_stack_in(&mut node, Inner::udp);
    assert_eq!(node.run(DirectRx, &arriving().udp()).action, REDIRECT);
}

/// Only the TTL changes: the kernel writes the Ethernet header of the next hop.
#[test]
fn a_fast_packet_leaves_one_hop_older() {
    let mut node = verified_tcp();
    let fast = node.run(PodTx, &Inner::from_pod().tcp());
    assert_eq!(fast.action, REDIRECT);
    let expected = Inner {
        ttl: 63,
        ..Inner::from_pod()
    };
    assert_eq!(fast.packet, expected.tcp());
}

#[test]
fn a_fast_packet_arrives_as_the_bridge_would_have_delivered_it() {
    let mut node = verified_tcp();
    let fast = node.run(DirectRx, &arriving().tcp());
    assert_eq!(fast.action, REDIRECT);
    assert_eq!(fast.packet, Inner::to_pod().tcp());
}

/// Else a packet past the stack would renew the proof, and a rule that drops the flow would never reach it.
#[test]
fn a_fast_packet_proves_nothing() {
    let mut node = verified_tcp();
    assert!(is_fast_out(&mut node));
    age(&mut node, REFRESH);
    // One goes through the stack to renew the proof, where a rule drops it; what follows takes the same way.
    assert!(!is_fast_out(&mut node));
    assert!(!is_fast_out(&mut node));
    let before = node.flow(&tcp_key()).unwrap();
    let packet = Inner {
        payload: 33,
        ..Inner::outbound()
    }
    .tcp();
    let out = node.run(DirectTx, &packet);
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
    assert_eq!(node.flow(&tcp_key()).unwrap(), before);
}

#[test]
fn marks_of_others_stay() {
    let mut node = node();
    let packet = Inner::outbound().tcp();
    let run = Run {
        packet: &packet,
        mark: 0x4000,
        ..Run::default()
    };
    assert_eq!(node.run_with(DirectTx, &run).mark, 0x4000);
}

/// The packet came out of the stack towards the tunnel, whatever the table says meanwhile.
#[test]
fn the_tunnel_proves_the_tunnel_and_the_uplink_the_way_without() {
    let mut node = node();
    node.run(PodTx, &Inner::from_pod().udp());
    node.run(OverlayTx, &Inner::outbound().udp());
    assert_eq!(node.flow(&udp_key()).unwrap().peer.kind, PEER_VXLAN);
    through_the_stack_out(&mut node, Inner::tcp);
    let flow = node.flow(&tcp_key()).unwrap();
    assert_eq!(flow.peer.kind, PEER_DIRECT);
    assert_eq!(flow.peer.next_hop, Node::PEER_IP);
}

/// A mark, or a rule that goes by the source, may lead it elsewhere: the frame is for another neighbour, or the table says so.
#[rstest]
#[case::to_another_neighbour("", [2, 0, 0, 0, 0, 9])]
#[case::by_another_route("ip route replace 10.244.2.0/24 via 192.168.0.254", [2, 0, 0, 0, 0, 0xfe])]
#[case::by_another_device("ip route replace 10.244.2.0/24 dev cni0", [2, 0, 0, 0, 0, 1])]
fn another_way_than_the_peer_s_proves_nothing(#[case] change: &str, #[case] mac: [u8; 6]) {
    let mut node = node();
    if !change.is_empty() {
        node.among_peers().run(change);
    }
    let packet = Inner {
        dst_mac: mac,
        ..Inner::outbound()
    };
    node.run(PodTx, &Inner::from_pod().udp());
    node.run(DirectTx, &packet.udp());
    assert_ne!(node.run(PodTx, &Inner::from_pod().udp()).action, REDIRECT);
}

/// A node without DirectRouting answers through the tunnel.
#[test]
fn one_direction_may_take_the_tunnel() {
    let mut node = node();
    through_the_stack_out(&mut node, Inner::tcp);
    let arriving = vxlan(&Inner::inbound().tcp());
    assert_eq!(node.run(UplinkRx, &arriving).action, REDIRECT);
    node.run(OverlayRx, &Inner::inbound().tcp());
    assert_eq!(node.run(PodRx, &Inner::to_pod().tcp()).action, UNSPEC);
    assert!(is_fast_out(&mut node));
    let fast = node.run(UplinkRx, &arriving);
    assert_eq!(fast.packet, Inner::to_pod().tcp());
}

/// Proven by way of the tunnel, a flow has still to show that it may come without.
#[test]
fn a_proof_of_the_tunnel_is_none_for_plain_packets() {
    let mut node = Node::default().load();
    node.run(UplinkRx, &vxlan(&Inner::inbound().udp()));
    node.run(OverlayRx, &Inner::inbound().udp());
    node.run(PodRx, &Inner::to_pod().udp());
    let tunnelled = vxlan(&Inner::inbound().udp());
    assert_eq!(node.run(UplinkRx, &tunnelled).packet, Inner::to_pod().udp());
    assert_eq!(node.run(DirectRx, &arriving().udp()).action, UNSPEC);
}

#[test]
fn bulk_by_the_tunnel_is_no_bulk_without_it() {
    let mut node = verified_tcp();
    change_flow(&mut node, |flow| flow.bulk = flow.rx.verified);
    assert!(is_fast_in(&mut node), "GRO had its turn at the uplink");
}

#[test]
fn packets_of_peers_behind_the_tunnel_prove_nothing_here() {
    let mut node = Node::default().load_among_peers();
    through_the_stack_out(&mut node, Inner::udp);
    assert_eq!(node.counted(DirectTx), []);
    assert_eq!(node.run(DirectRx, &arriving().udp()).action, UNSPEC);
    assert_eq!(node.counted(DirectRx), [(Reason::Unverified, 1)]);
    assert_eq!(node.flow(&udp_key()), None);
}

#[rstest]
#[case::young(REFRESH / 2, true)]
#[case::old(LIFETIME, false)]
fn a_proof_ends(#[case] ticks: u32, #[case] fast: bool) {
    let mut node = verified_tcp();
    age(&mut node, ticks);
    assert_eq!(is_fast_out(&mut node), fast);
    let mut node = verified_tcp();
    age(&mut node, ticks);
    assert_eq!(is_fast_in(&mut node), fast);
}

#[test]
fn one_packet_renews_the_proof_and_the_others_go_on() {
    let mut node = verified_tcp();
    age(&mut node, REFRESH);
    assert!(!is_fast_in(&mut node));
    assert_eq!(node.count(DirectRx, Reason::Refresh).packets, 1);
    node.run(PodRx, &Inner::to_pod().tcp());
    assert!(is_fast_in(&mut node));
    let flow = node.flow(&tcp_key()).unwrap();
    assert!(flow.rx.verified.wrapping_sub(flow.tx.verified) >= REFRESH - 1);
}

#[test]
fn a_new_epoch_ends_every_proof() {
    let mut node = verified_tcp();
    node.bump_epoch();
    assert!(!is_fast_out(&mut node) && !is_fast_in(&mut node));
}

/// Its lease is gone, or it is behind the tunnel now: the agent raised the epoch with that.
#[test]
fn a_peer_that_changes_is_asked_for_again() {
    let mut node = verified_tcp();
    node.remove_peer(Node::PEER_SUBNET, 24, Node::PEER_IP);
    node.bump_epoch();
    let before = node.flow(&tcp_key()).unwrap();
    assert!(!is_fast_in(&mut node));
    assert_eq!(node.flow(&tcp_key()).unwrap(), before);
}

#[rstest]
#[case::syn(SYN)]
#[case::fin(FIN_ACK)]
fn conntrack_sees_what_opens_and_closes(#[case] flags: u8) {
    let mut node = verified_tcp();
    let out = node.run(PodTx, &Inner::from_pod().tcp_with(flags));
    assert_eq!(out.action, UNSPEC);
    assert!(!is_fast_in(&mut node));
    let mut node = verified_tcp();
    let out = node.run(DirectRx, &arriving().tcp_with(flags));
    assert_eq!(out.action, UNSPEC);
    assert_eq!(node.count(DirectRx, Reason::TcpControl).packets, 1);
    assert!(!is_fast_out(&mut node));
}

#[test]
fn a_flow_is_fast_after_the_handshake() {
    let mut node = node();
    through_the_stack_in(&mut node, |inner| inner.tcp_with(SYN));
    assert_eq!(node.flows(), [], "only an answer makes an entry");
    through_the_stack_out(&mut node, |inner| inner.tcp_with(SYN_ACK));
    assert!(!is_fast_out(&mut node), "the handshake is not over");
    through_the_stack_in(&mut node, Inner::tcp);
    assert!(is_fast_out(&mut node) && is_fast_in(&mut node));
    // And a new connection on the old tuple, from here.
    through_the_stack_out(&mut node, |inner| inner.tcp_with(SYN));
    through_the_stack_in(&mut node, |inner| inner.tcp_with(SYN_ACK));
    assert!(!is_fast_in(&mut node), "the handshake is not over");
    through_the_stack_out(&mut node, Inner::tcp);
    assert!(is_fast_out(&mut node) && is_fast_in(&mut node));
}

#[rstest]
#[case::options(|p: &mut Vec<u8>| p[14] = 0x46, Reason::InnerOptions)]
#[case::fragment(|p: &mut Vec<u8>| p[20] = 0x20, Reason::InnerFragment)]
#[case::icmp(|p: &mut Vec<u8>| p[23] = 1, Reason::OtherProtocol)]
#[case::ttl(|p: &mut Vec<u8>| p[22] = 1, Reason::TtlExpiring)]
fn what_is_odd_takes_the_stack(#[case] odd: fn(&mut Vec<u8>), #[case] reason: Reason) {
    let mut node = verified_tcp();
    let mut packet = arriving().tcp();
    odd(&mut packet);
    let out = node.run(DirectRx, &packet);
    assert_eq!((out.action, &out.packet), (UNSPEC, &packet));
    assert_eq!(node.count(DirectRx, reason).packets, 1);
    let mut packet = Inner::outbound().tcp();
    odd(&mut packet);
    node.run(DirectTx, &packet);
    assert_eq!(
        node.counted(DirectTx),
        [(Reason::Verified, 1)],
        "only the first"
    );
}

#[test]
fn what_is_too_long_takes_the_stack() {
    let mut node = verified_tcp();
    let of = |payload| Inner {
        payload,
        ..arriving()
    };
    assert_eq!(node.run(DirectRx, &of(1450 - 40 + 1).tcp()).action, UNSPEC);
    assert_eq!(node.count(DirectRx, Reason::OverMtu).packets, 1);
    assert_eq!(node.run(DirectRx, &of(1450 - 40).tcp()).action, REDIRECT);
}

#[rstest]
#[case::another_destination(Inner { dst: [10, 244, 9, 5], ..arriving() })]
#[case::from_outside(Inner { src: [192, 0, 2, 7], ..arriving() })]
#[case::from_ourselves(Inner { src: [10, 244, 1, 9], ..arriving() })]
fn what_is_not_from_pod_to_pod_is_not_ours(#[case] packet: Inner) {
    let mut node = verified_tcp();
    let before = node.counted(DirectRx);
    assert_eq!(node.run(DirectRx, &packet.tcp()).action, UNSPEC);
    assert_eq!(node.counted(DirectRx), before);
}

#[rstest]
#[case::to_the_node(Inner { dst: [192, 168, 0, 2], ..Inner::outbound() })]
#[case::from_the_node(Inner { src: [192, 168, 0, 1], ..Inner::outbound() })]
#[case::to_a_subnet_of_nobody(Inner { dst: [10, 244, 99, 1], ..Inner::outbound() })]
fn what_leaves_for_elsewhere_is_not_ours(#[case] packet: Inner) {
    let mut node = node();
    assert_eq!(node.run(DirectTx, &packet.tcp()).action, UNSPEC);
    assert_eq!(node.counted(DirectTx), []);
}

#[test]
fn without_proof_every_packet_to_a_known_pod_is_fast() {
    let mut node = node_with(&Node {
        fast_path: FAST_PATH_ALWAYS,
        ..Node::default()
    });
    assert!(is_fast_out(&mut node));
    assert!(!is_fast_in(&mut node), "nobody knows the pod's port");
    node.run(PodRx, &Inner::to_pod().tcp());
    assert!(is_fast_in(&mut node));
    node.bump_epoch();
    assert!(!is_fast_in(&mut node));
}

#[test]
fn switched_off_nothing_is_noted() {
    let mut node = node_with(&Node {
        fast_path: FAST_PATH_OFF,
        ..Node::default()
    });
    through_the_stack_out(&mut node, Inner::tcp);
    through_the_stack_in(&mut node, Inner::tcp);
    assert!(!is_fast_out(&mut node) && !is_fast_in(&mut node));
    assert_eq!(node.flows(), []);
    assert_eq!(
        (node.counted(DirectRx), node.counted(DirectTx)),
        (vec![], vec![])
    );
}

/// A test run takes no packet shorter than an IPv4 header.
#[test]
fn packets_cut_off_anywhere_take_the_stack() {
    for len in 34..arriving().tcp().len() {
        let mut node = verified_tcp();
        let mut packet = arriving().tcp();
        packet.truncate(len);
        let out = node.run(DirectRx, &packet);
        assert!(out.action == UNSPEC || len >= 14 + 20 + 14, "{len}");
        let mut packet = Inner::outbound().tcp();
        packet.truncate(len);
        assert_eq!(node.run(DirectTx, &packet).packet, packet);
    }
}
