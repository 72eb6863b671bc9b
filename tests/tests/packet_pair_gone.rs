//! The pair of devices is gone, as when flanneld was started after the agent's end: packets are left to whoever serves the
//! network now, and nothing of what the maps still say drops or diverts them.

#![cfg(test)]

use flannel_common::flow::LIFETIME;
use flannel_common::globals::{FAST_PATH_ALWAYS, FAST_PATH_OFF, FAST_PATH_VERIFIED};
use flannel_common::program::Program::{
    DirectRx, DirectTx, OverlayRx, OverlayTx, PodRx, PodTx, UplinkRx, UplinkSnatRx, UplinkTx,
    UplinkXdp,
};
use flannel_common::reason::Reason;
use flannel_tests::netns::Netns;
use flannel_tests::packet::at::{INNER_IP, OUTER_IP};
use flannel_tests::packet::flows::age;
use flannel_tests::packet::outside::{Plain, SYN, SYN_ACK, US};
use flannel_tests::packet::{Fixture, Inner, Node, REDIRECT, UNSPEC, XDP_PASS, patched, vxlan};
use flannel_tests::sweep;
use flannel_tests::wait::{SOON, eventually};
use rstest::rstest;

/// An index that no device has.
const NOBODY: u32 = 987_654;

fn without_a_pair() -> Node {
    Node {
        pair_index: NOBODY,
        ..Node::default()
    }
}

#[rstest]
#[case::of_a_peer(vxlan(&Inner::inbound().tcp()))]
#[case::of_a_node_that_came_later(patched(vxlan(&Inner::inbound().udp()), OUTER_IP + 12, &[192, 168, 0, 66]))]
#[case::of_a_subnet_that_moved(patched(vxlan(&Inner::inbound().tcp()), INNER_IP + 12, &[10, 244, 9, 9]))]
fn what_arrives_is_for_the_kernels_device(
    #[case] packet: Vec<u8>,
    #[values(FAST_PATH_OFF, FAST_PATH_VERIFIED, FAST_PATH_ALWAYS)] fast_path: u8,
) {
    let mut node = Node {
        fast_path,
        ..without_a_pair()
    }
    .load();
    let out = node.run(UplinkRx, &packet);
    assert_eq!((out.action, &out.packet), (UNSPEC, &packet));
    assert_eq!(node.counted(UplinkRx), [(Reason::PairGone, 1)]);
    let out = node.run_xdp(&packet);
    assert_eq!((out.action, &out.packet), (XDP_PASS, &packet));
    assert_eq!(node.counted(UplinkXdp), []);
}

/// What is no tunnel's packet of ours is no more ours than before.
#[test]
fn other_packets_are_not_counted() {
    let mut node = without_a_pair().load();
    let other_port = patched(vxlan(&Inner::inbound().udp()), OUTER_IP + 22, &[0x12, 0xb5]);
    assert_eq!(node.run(UplinkRx, &other_port).action, UNSPEC);
    assert_eq!(node.counted(UplinkRx), []);
}

#[test]
fn without_proof_nothing_is_sent_to_peers_that_nobody_follows() {
    let mut node = Node {
        fast_path: FAST_PATH_ALWAYS,
        ..without_a_pair()
    }
    .load();
    let packet = Inner::from_pod().tcp();
    let out = node.run(PodTx, &packet);
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
    assert_eq!(node.counted(PodTx), [(Reason::PairGone, 1)]);
}

#[test]
fn peers_without_a_tunnel_prove_nothing_any_more() {
    let mut node = without_a_pair().load_among_peers();
    node.direct_peer(Node::PEER_SUBNET, 24, Node::PEER_IP);
    let arriving = Inner {
        dst_mac: [0; 6],
        ..Inner::inbound()
    };
    for _ in 0..3 {
        assert_eq!(node.run(PodTx, &Inner::from_pod().udp()).action, UNSPEC);
        assert_eq!(node.run(DirectTx, &Inner::outbound().udp()).action, UNSPEC);
        assert_eq!(node.run(DirectRx, &arriving.udp()).action, UNSPEC);
        assert_eq!(node.run(PodRx, &Inner::to_pod().udp()).action, UNSPEC);
    }
    assert_eq!(node.counted(DirectTx), [(Reason::PairGone, 3)]);
    assert_eq!(node.counted(DirectRx), [(Reason::PairGone, 3)]);
}

/// host-gw has no pair, and nothing that could go.
#[test]
fn without_a_tunnel_there_is_no_pair_to_miss() {
    let mut node = Node {
        pair_index: 0,
        ..Node::default()
    }
    .load_among_peers();
    node.direct_peer(Node::PEER_SUBNET, 24, Node::PEER_IP);
    node.run(PodTx, &Inner::from_pod().udp());
    node.run(DirectTx, &Inner::outbound().udp());
    assert_eq!(node.counted(DirectTx), [(Reason::Verified, 1)]);
    assert_eq!(node.run(PodTx, &Inner::from_pod().udp()).action, REDIRECT);
}

/// Runs a test in a namespace that has the pair, which it may take away.
fn with_a_pair(test: impl FnOnce(&dyn Fn(&mut Fixture), &mut Fixture) + Send) {
    const PAIR: u32 = 30;
    let netns = Netns::create(&sweep::unique_name());
    netns.run(&format!(
        "ip link add flannel.1 index {PAIR} type veth peer name flgro.1"
    ));
    netns.enter(|| {
        let node = Node {
            pair_index: PAIR,
            ..Node::default()
        };
        let go = |node: &mut Fixture| {
            netns.run("ip link del flannel.1");
            let packet = vxlan(&Inner::inbound().udp());
            eventually("the programs look again", SOON, || {
                node.run(UplinkRx, &packet).action == UNSPEC
            });
        };
        test(&go, &mut node.load_snat());
    });
}

#[test]
fn a_proven_flow_ends_with_the_pair() {
    with_a_pair(|go, node| {
        let [out, back] = [Inner::outbound().tcp(), vxlan(&Inner::inbound().tcp())];
        node.run(PodTx, &Inner::from_pod().tcp());
        node.run(OverlayTx, &out);
        node.run(UplinkRx, &back);
        node.run(OverlayRx, &Inner::inbound().tcp());
        node.run(PodRx, &Inner::to_pod().tcp());
        assert_eq!(node.run(UplinkRx, &back).action, REDIRECT);
        assert_eq!(node.count(UplinkRx, Reason::FastRx).packets, 1);
        go(node);
        let out = node.run(UplinkRx, &back);
        assert_eq!((out.action, out.packet), (UNSPEC, back));
        age(node, LIFETIME);
        assert_eq!(node.run(PodTx, &Inner::from_pod().tcp()).action, UNSPEC);
    });
}

#[test]
fn nothing_leaves_under_a_pod_s_address_and_what_is_the_node_s_takes_no_place() {
    with_a_pair(|go, node| {
        let known = Plain {
            sport: 50_000,
            ..Plain::default()
        };
        let new = Plain {
            dport: 8443,
            ..known
        };
        node.run(UplinkTx, &known.tcp(SYN));
        go(node);
        let seen = known.from(US, 50_000);
        assert_eq!(node.run(UplinkTx, &known.tcp(SYN)).packet, seen.tcp(SYN));
        let answer = node.run(UplinkSnatRx, &seen.answer().tcp(SYN_ACK));
        assert_eq!(answer.packet, known.answer().tcp(SYN_ACK));

        let seen = new.from(US, 50_000).tcp(SYN);
        assert_eq!(node.run(UplinkTx, &new.tcp(SYN)).packet, seen);
        // As flanneld's rules leave it.
        let own = known.from(US, 40_000).tcp(SYN);
        let left = node.run(UplinkTx, &own);
        assert_eq!((left.action, left.packet), (UNSPEC, own));
    });
}
