//! `--gro`: where packets go of which GRO may make one, when the pair is not to do it.

#![cfg(test)]

use flannel_agent::base::options::Gro;
use flannel_common::globals::{ANCHOR_FORWARDED, ANCHOR_NONE, ANCHOR_STACK};
use flannel_common::program::Program::{AnchorRx, UplinkRx};
use flannel_common::reason::Reason;
use flannel_tests::packet::flows::{is_fast_in, through_the_stack_in, through_the_stack_out};
use flannel_tests::packet::{Fixture, Inner, Node, REDIRECT, Run, UNSPEC, vxlan};
use rstest::rstest;

const FIN_ACK: u8 = 0x11;
const SYN: u8 = 0x02;

fn node(gro: Gro, anchor: u8) -> Fixture {
    Node {
        gro,
        anchor,
        ..Node::default()
    }
    .load()
}

/// What `uplink_rx` makes of a frame that comes through the tunnel. What it leaves is as it came.
#[track_caller]
fn way(node: &mut Fixture, frame: &[u8], gso_size: u32) -> Reason {
    let before = node.counted(UplinkRx);
    let packet = vxlan(frame);
    let run = Run {
        packet: &packet,
        gso_size,
        ..Run::default()
    };
    let out = node.run_with(UplinkRx, &run);
    let after = node.counted(UplinkRx);
    let [(reason, _)] = after
        .iter()
        .filter(|count| !before.contains(count))
        .collect::<Vec<_>>()[..]
    else {
        panic!("{before:?}, {after:?}");
    };
    match reason {
        Reason::ToAnchor => assert_eq!((out.action, out.packet), (UNSPEC, packet)),
        _ => assert_eq!(out.action, REDIRECT),
    }
    *reason
}

fn to(dst: [u8; 4]) -> Inner {
    Inner {
        dst,
        payload: 1300,
        ..Inner::inbound()
    }
}

const POD: [u8; 4] = [10, 244, 1, 5];
/// Behind it may be a connection that the node forwards to the outside.
const THE_NODE: [u8; 4] = [10, 244, 1, 0];
const OUTSIDE: [u8; 4] = [192, 0, 2, 9];

#[rstest]
#[case::nothing_merges(Gro::None, ANCHOR_NONE, POD, Reason::DecapDirect)]
#[case::for_a_pod(Gro::Anchor, ANCHOR_FORWARDED, POD, Reason::DecapDirect)]
#[case::for_the_node(Gro::Anchor, ANCHOR_FORWARDED, THE_NODE, Reason::ToAnchor)]
#[case::for_elsewhere(Gro::Anchor, ANCHOR_FORWARDED, OUTSIDE, Reason::ToAnchor)]
#[case::by_the_bridge(Gro::Anchor, ANCHOR_STACK, POD, Reason::ToAnchor)]
#[case::pair(Gro::Pair, ANCHOR_NONE, THE_NODE, Reason::DecapGro)]
fn data_of_a_stream(
    #[case] gro: Gro,
    #[case] anchor: u8,
    #[case] dst: [u8; 4],
    #[case] wanted: Reason,
) {
    let mut node = node(gro, anchor);
    assert_eq!(way(&mut node, &to(dst).tcp(), 0), wanted);
    // It may not overtake data.
    assert_eq!(way(&mut node, &to(dst).tcp_with(FIN_ACK), 0), wanted);
    // What is merged goes the same way as what is not; a test run has no GSO that the kernel would strip.
    if wanted == Reason::ToAnchor {
        assert_eq!(way(&mut node, &to(dst).tcp(), 500), wanted);
    }
}

/// As past the pair.
#[rstest]
fn what_is_no_part_of_a_stream_goes_straight_to_the_stack(
    #[values(ANCHOR_NONE, ANCHOR_FORWARDED, ANCHOR_STACK)] anchor: u8,
    #[values(POD, THE_NODE, OUTSIDE)] dst: [u8; 4],
) {
    let mut node = node(Gro::Anchor, anchor);
    let acknowledgement = Inner {
        payload: 0,
        ..to(dst)
    };
    for frame in [to(dst).udp(), to(dst).tcp_with(SYN), acknowledgement.tcp()] {
        assert_eq!(way(&mut node, &frame, 0), Reason::DecapDirect);
    }
}

/// Nothing waits for a second pass: segments of full size are judged one by one, if they come so.
#[rstest]
fn bulk_is_fast_at_once(#[values(Gro::Anchor, Gro::None)] gro: Gro) {
    let mut node = node(gro, ANCHOR_FORWARDED);
    through_the_stack_in(&mut node, Inner::tcp);
    through_the_stack_out(&mut node, Inner::tcp);
    assert!(is_fast_in(&mut node));
    assert_eq!(way(&mut node, &to(POD).tcp(), 0), Reason::FastRx);
    assert!(is_fast_in(&mut node));
}

/// Not what the kernel has decapsulated: whatever it is, it is not ours. (`agent_dataplane/anchor.rs` has what is.)
#[test]
fn a_frame_without_a_tunnel_is_not_taken_from_the_anchor() {
    let mut node = node(Gro::Anchor, ANCHOR_FORWARDED);
    let frame = Inner::inbound().udp();
    let out = node.run(AnchorRx, &frame);
    assert_eq!((out.action, out.packet), (UNSPEC, frame));
    assert_eq!(node.counted(AnchorRx), [(Reason::OtherVni, 1)]);
}
