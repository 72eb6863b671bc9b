//! GBP, packet by packet: netfilter's mark in the VXLAN header, on both paths.

#![cfg(test)]

use flannel_common::program::Program::{OverlayRx, OverlayTx, PodRx, PodTx, UplinkRx, UplinkXdp};
use flannel_common::reason::Reason;
use flannel_tests::packet::at::VXLAN;
use flannel_tests::packet::{
    Fixture, Inner, Node, Outcome, REDIRECT, Run, SHOT, UNSPEC, XDP_PASS, patched, vxlan,
};
use rstest::rstest;

const MARK: u32 = 0x0048_1234;
const FLAGS: [u8; 4] = [0x88, 0x48, 0x12, 0x34];
const NO_GROUP: [u8; 4] = [0x08, 0, 0, 0];

fn node() -> Fixture {
    let gbp = Node {
        gbp: true,
        ..Node::default()
    };
    gbp.load()
}

/// From the peer, with these flags.
fn inbound(flags: [u8; 4]) -> Vec<u8> {
    patched(vxlan(&Inner::inbound().udp()), VXLAN, &flags)
}

fn run(
    node: &mut Fixture,
    program: flannel_common::program::Program,
    packet: &[u8],
    mark: u32,
) -> Outcome {
    let run = Run {
        packet,
        mark,
        came_by: if program == PodRx { Node::FLANNEL } else { 0 },
        ..Run::default()
    };
    node.run_with(program, &run)
}

/// The outer packet keeps the mark, as with the kernel's device.
#[rstest]
#[case::none(0, NO_GROUP)]
#[case::all_that_goes_along(MARK, FLAGS)]
#[case::a_policy(7, [0x88, 0, 0, 7])]
#[case::nothing_that_goes_along(0x0100_0000, [0x88, 0, 0, 0])]
fn a_mark_leaves_in_the_header(#[case] mark: u32, #[case] flags: [u8; 4]) {
    let out = run(&mut node(), OverlayTx, &Inner::outbound().udp(), mark);
    assert_eq!((out.action, out.mark), (REDIRECT, mark));
    assert_eq!(out.packet[VXLAN..VXLAN + 4], flags);
    assert_eq!(out.packet[VXLAN + 4..VXLAN + 8], [0, 0, 1, 0], "VNI");

    let mut without = Node::default().load();
    let out = run(&mut without, OverlayTx, &Inner::outbound().udp(), mark);
    assert_eq!(out.packet[VXLAN..VXLAN + 4], NO_GROUP, "nobody asked");
}

/// `outer`: the mark that a rule at the uplink has given the tunnel's packet.
#[rstest]
#[case::no_group(NO_GROUP, 0, 0)]
#[case::no_group_keeps_the_outer_mark(NO_GROUP, 9, 9)]
#[case::a_group(FLAGS, 0, MARK)]
#[case::a_group_goes_before_the_outer_mark(FLAGS, 9, MARK)]
#[case::an_empty_one([0x88, 0, 0, 0], 9, 0)]
#[case::without_g_the_rest_is_nothing([0x08, 0x48, 0x12, 0x34], 0, 0)]
fn a_group_arrives_as_the_mark(#[case] flags: [u8; 4], #[case] outer: u32, #[case] mark: u32) {
    let out = run(&mut node(), UplinkRx, &inbound(flags), outer);
    assert_eq!((out.action, out.mark), (REDIRECT, mark));
    assert_eq!(out.packet, Inner::inbound().udp());
}

/// Rules about the node's own packets must not meet a pod's mark.
#[test]
fn what_is_left_to_the_stack_keeps_its_own_mark() {
    let large = Inner {
        payload: 1200,
        ..Inner::inbound()
    };
    let packet = patched(vxlan(&large.udp()), VXLAN, &FLAGS);
    let run = Run {
        packet: &packet,
        gso_size: 500,
        mark: 9,
        ..Run::default()
    };
    let mut node = node();
    let out = node.run_with(UplinkRx, &run);
    assert_eq!((out.action, out.mark), (UNSPEC, 9));
    assert_eq!(out.packet, packet);
    assert_eq!(node.counted(UplinkRx), [(Reason::UdpGso, 1)]);
}

/// What a kernel device with GBP refuses: the rest of the first byte, and the one behind the VNI.
#[test]
fn other_flags_and_reserved_bits_are_refused_as_before() {
    let mut node = node();
    let mut refused = 0;
    for bit in (0..32).chain(56..64) {
        let mut packet = inbound(NO_GROUP);
        packet[VXLAN + bit / 8] ^= 0x80 >> (bit % 8);
        let is_gbp_s = bit == 0 || (8..32).contains(&bit);
        let action = node.run(UplinkRx, &packet).action;
        assert_eq!(action, if is_gbp_s { REDIRECT } else { SHOT }, "bit {bit}");
        refused += u64::from(!is_gbp_s);
    }
    assert_eq!(node.count(UplinkRx, Reason::BadVxlanFlags).packets, refused);
}

#[test]
fn a_fast_packet_carries_the_mark_that_the_stack_was_seen_to_give() {
    let mut node = node();
    let sent = Inner::from_pod().udp();
    assert_eq!(run(&mut node, PodTx, &sent, 0).action, UNSPEC);
    let slow = run(&mut node, OverlayTx, &Inner::outbound().udp(), MARK);
    assert_eq!(slow.packet[VXLAN..VXLAN + 4], FLAGS);

    let fast = run(&mut node, PodTx, &sent, 0);
    assert_eq!((fast.action, fast.mark), (REDIRECT, MARK));
    assert_eq!(fast.packet[VXLAN..VXLAN + 4], FLAGS);

    // With another mark before the stack it may come out with another one.
    assert_eq!(run(&mut node, PodTx, &sent, 5).action, UNSPEC);
}

#[test]
fn only_packets_of_the_same_group_are_fast() {
    let mut node = node();
    let arrived = Inner::inbound().udp();
    assert_eq!(
        run(&mut node, UplinkRx, &inbound(FLAGS), 0).action,
        REDIRECT
    );
    assert_eq!(run(&mut node, OverlayRx, &arrived, MARK).action, UNSPEC);
    let delivered = Inner::to_pod().udp();
    assert_eq!(run(&mut node, PodRx, &delivered, MARK).action, UNSPEC);

    let fast = |node: &Fixture| node.count(UplinkRx, Reason::FastRx).packets;
    run(&mut node, UplinkRx, &inbound(FLAGS), 0);
    assert_eq!(fast(&node), 1);
    for (flags, mark) in [(NO_GROUP, 0), ([0x88, 0, 0, 7], 7)] {
        let out = run(&mut node, UplinkRx, &inbound(flags), 0);
        assert_eq!((fast(&node), out.mark), (1, mark), "to the stack");
    }
}

/// The driver has no marks.
#[test]
fn a_group_passes_the_driver_as_it_is() {
    let mut node = node();
    let packet = inbound(FLAGS);
    let out = node.run_xdp(&packet);
    assert_eq!((out.action, out.packet), (XDP_PASS, packet));
    assert_eq!(node.counted(UplinkXdp), []);
    node.run_xdp(&inbound(NO_GROUP));
    assert_eq!(node.counted(UplinkXdp), [(Reason::XdpDecap, 1)]);
}
