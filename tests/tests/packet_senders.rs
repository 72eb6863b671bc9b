//! Whose tunnel packets are taken, at the TC hook and at the driver, and what is noted of the others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests panic to keep their backtraces"
)]

use flannel_common::Ipv4;
use flannel_common::globals::{FAST_PATH_ALWAYS, FAST_PATH_OFF, FAST_PATH_VERIFIED};
use flannel_common::program::Program::{UplinkRx, UplinkXdp};
use flannel_common::reason::Reason;
use flannel_common::source::{CHECK_LEASE, CHECK_OFF, CHECK_STRICT, TAKEN};
use flannel_tests::packet::at::{INNER_ETH, INNER_IP, OUTER_IP};
use flannel_tests::packet::{Fixture, Inner, Node, REDIRECT, SHOT, vxlan};
use rstest::rstest;

const ELSEWHERE: Ipv4 = [192, 168, 0, 12];
const POD: Ipv4 = [10, 244, 2, 7];
const STRANGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x66];
const XDP_PASS: i32 = 2;

/// A tunnel packet that says this of where it comes from.
fn packet(outer: Ipv4, inner: Ipv4, mac: [u8; 6]) -> Vec<u8> {
    let src = inner;
    let inner = Inner {
        src,
        ..Inner::inbound()
    };
    let mut packet = vxlan(&inner.udp());
    packet[OUTER_IP + 12..OUTER_IP + 16].copy_from_slice(&outer);
    packet[INNER_ETH + 6..INNER_ETH + 12].copy_from_slice(&mac);
    packet
}

fn node(source_check: u8, fast_path: u8) -> Fixture {
    let node = Node {
        source_check,
        fast_path,
        ..Node::default()
    };
    node.load()
}

/// Outer address, outcome and packets of each that was noted.
fn noted(node: &Fixture) -> Vec<(Ipv4, u8, u64)> {
    let mut all: Vec<_> = node
        .senders()
        .into_iter()
        .map(|(key, sender)| (key.outer, key.reason, sender.packets))
        .collect();
    all.sort_unstable();
    all
}

#[rstest]
fn a_peer_that_sends_from_another_address_is_known_by_its_mac(
    #[values(FAST_PATH_OFF, FAST_PATH_VERIFIED, FAST_PATH_ALWAYS)] fast_path: u8,
    #[values(POD, ELSEWHERE, [10, 244, 250, 5])] inner: Ipv4,
) {
    let mut node = node(CHECK_LEASE, fast_path);
    let packet = packet(ELSEWHERE, inner, Node::PEER_MAC);
    assert_eq!(node.run(UplinkRx, &packet).action, REDIRECT);
    assert_eq!(noted(&node), [(ELSEWHERE, TAKEN, 1)]);
    node.run_xdp(&packet);
    assert_eq!(node.counted(UplinkXdp), [(Reason::XdpDecap, 1)]);
    assert!(noted(&node)[0].2 >= 1);
}

#[rstest]
fn not_without_it(
    #[values(FAST_PATH_OFF, FAST_PATH_VERIFIED, FAST_PATH_ALWAYS)] fast_path: u8,
    #[values(POD, ELSEWHERE, [10, 244, 250, 5])] inner: Ipv4,
) {
    let mut node = node(CHECK_LEASE, fast_path);
    let packet = packet(ELSEWHERE, inner, STRANGE_MAC);
    assert_eq!(node.run(UplinkRx, &packet).action, SHOT);
    assert_eq!(node.counted(UplinkRx), [(Reason::UnknownVtep, 1)]);
    node.run_xdp(&packet);
    assert_eq!(node.counted(UplinkXdp), [(Reason::UnknownVtep, 1)]);
    let unknown = Reason::UnknownVtep as u8;
    assert_eq!(noted(&node), [(ELSEWHERE, unknown, 2)]);
}

/// Of another peer, which knows the lease's MAC no more than its pods do; and nobody speaks for our own pods.
#[test]
fn a_mac_speaks_for_its_own_lease() {
    let mut node = node(CHECK_LEASE, FAST_PATH_VERIFIED);
    let (other, mac) = ([192, 168, 0, 3], [2, 0, 0, 0, 0, 3]);
    node.peer([10, 244, 3, 0], 24, other, mac);
    assert_eq!(node.run(UplinkRx, &packet(other, POD, mac)).action, SHOT);
    let ours = packet(ELSEWHERE, [10, 244, 1, 9], Node::PEER_MAC);
    assert_eq!(node.run(UplinkRx, &ours).action, SHOT);
    assert_eq!(
        noted(&node),
        [
            (other, Reason::SpoofedSource as u8, 1),
            (ELSEWHERE, Reason::UnknownVtep as u8, 1),
        ]
    );
    // Behind one NAT address with that peer.
    let behind = packet(other, POD, Node::PEER_MAC);
    assert_eq!(node.run(UplinkRx, &behind).action, REDIRECT);
}

#[rstest]
#[case::by_the_address_alone(CHECK_STRICT, SHOT)]
#[case::whoever_it_is(CHECK_OFF, REDIRECT)]
fn as_strict_as_one_likes(#[case] source_check: u8, #[case] action: i32) {
    let mut node = node(source_check, FAST_PATH_VERIFIED);
    let packet = packet(ELSEWHERE, POD, Node::PEER_MAC);
    assert_eq!(node.run(UplinkRx, &packet).action, action);
    let usual = self::packet(Node::PEER_IP, POD, STRANGE_MAC);
    assert_eq!(node.run(UplinkRx, &usual).action, REDIRECT);
}

/// The kernel's device gets none of these either: the stack drops them ahead of it.
#[rstest]
fn what_no_wire_has_is_nobody_s(
    #[values(CHECK_OFF, CHECK_LEASE)] source_check: u8,
    #[values([127, 0, 0, 1], [0, 0, 0, 7], [224, 0, 0, 1], [255; 4])] outer: Ipv4,
) {
    let mut node = node(source_check, FAST_PATH_VERIFIED);
    let packet = packet(outer, POD, Node::PEER_MAC);
    assert_eq!(node.run(UplinkRx, &packet).action, SHOT);
    assert_eq!(node.counted(UplinkRx), [(Reason::UnknownVtep, 1)]);
    node.run_xdp(&packet);
    assert_eq!(node.counted(UplinkXdp), [(Reason::UnknownVtep, 1)]);
}

#[test]
fn what_comes_from_the_address_of_its_lease_is_not_noted() {
    let mut node = node(CHECK_LEASE, FAST_PATH_VERIFIED);
    for inner in [POD, [172, 16, 0, 1]] {
        let packet = packet(Node::PEER_IP, inner, STRANGE_MAC);
        assert_eq!(node.run(UplinkRx, &packet).action, REDIRECT);
    }
    assert_eq!(noted(&node), []);
}

/// `--iface=192.168.0.1 --public-ip=192.168.0.22`: peers send to the latter.
#[test]
fn what_is_sent_to_the_public_ip_is_for_us() {
    let node = Node {
        public_ip: [192, 168, 0, 22],
        ..Node::default()
    };
    let mut node = node.load();
    let mut packet = packet(Node::PEER_IP, POD, Node::PEER_MAC);
    assert_eq!(packet[INNER_IP], 0x45);
    for (to, taken) in [
        ([192, 168, 0, 1], true),
        ([192, 168, 0, 22], true),
        ([192, 168, 0, 23], false),
    ] {
        packet[OUTER_IP + 16..OUTER_IP + 20].copy_from_slice(&to);
        let action = node.run(UplinkRx, &packet).action;
        assert_eq!(action == REDIRECT, taken, "{to:?}");
        let out = node.run_xdp(&packet);
        assert_eq!(out.action, XDP_PASS);
        assert_eq!(out.packet.len() < packet.len(), taken, "{to:?}");
    }
}
