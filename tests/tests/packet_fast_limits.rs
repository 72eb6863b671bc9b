//! The limits of the fast path, packet by packet: what only the stack can do, what GRO merges first, off and always.

#![cfg(test)]

use flannel_common::flow::REFRESH;
use flannel_common::globals::{FAST_PATH_ALWAYS, FAST_PATH_OFF, FAST_PATH_VERIFIED};
use flannel_common::program::Program::{OverlayRx, PodRx, PodTx, UplinkRx};
use flannel_common::reason::Reason;
use flannel_tests::packet::flows::{
    FIN_ACK, RST, SYN, SYN_ACK, age, change_flow, is_fast_in, through_the_stack_in,
    through_the_stack_out, verified_tcp,
};
use flannel_tests::packet::{Fixture, Inner, Node, REDIRECT, Run, UNSPEC, vxlan};
use rstest::rstest;

/// Each is passed untouched, and says why.
#[rstest]
#[case::options(|p: &mut Vec<u8>| p[14] = 0x46, Reason::InnerOptions)]
#[case::fragment(|p: &mut Vec<u8>| p[20] = 0x20, Reason::InnerFragment)]
#[case::ttl_1(|p: &mut Vec<u8>| p[22] = 1, Reason::TtlExpiring)]
#[case::sctp(|p: &mut Vec<u8>| p[23] = 132, Reason::OtherProtocol)]
#[case::icmp(|p: &mut Vec<u8>| p[23] = 1, Reason::OtherProtocol)]
#[case::cut_off(|p: &mut Vec<u8>| p.truncate(40), Reason::Truncated)]
#[case::longer_than_the_frame(|p: &mut Vec<u8>| p[16..18].copy_from_slice(&1400u16.to_be_bytes()), Reason::Truncated)]
#[case::shorter_than_its_header(|p: &mut Vec<u8>| p[16..18].copy_from_slice(&19u16.to_be_bytes()), Reason::Truncated)]
fn what_only_the_stack_can_do(#[case] change: fn(&mut Vec<u8>), #[case] reason: Reason) {
    let mut node = verified_tcp();
    let before = node.count(PodTx, reason).packets;
    let mut packet = Inner::from_pod().tcp();
    change(&mut packet);
    let out = node.run(PodTx, &packet);
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
    assert_eq!(node.count(PodTx, reason).packets, before + 1);
}

#[test]
fn a_packet_over_the_mtu_takes_the_stack() {
    let mut node = verified_tcp();
    let packet = Inner {
        payload: 1450 - 40 + 1,
        ..Inner::from_pod()
    }
    .tcp();
    assert_eq!(node.run(PodTx, &packet).action, UNSPEC);
    assert_eq!(node.count(PodTx, Reason::OverMtu).packets, 1);
    let packet = Inner {
        payload: 1450 - 40,
        ..Inner::from_pod()
    }
    .tcp();
    assert_eq!(node.run(PodTx, &packet).action, REDIRECT);
}

/// The stack cuts it off; past it, it would go along.
#[test]
fn what_is_behind_a_packet_counts_against_the_mtu() {
    let mut node = verified_tcp();
    let mut packet = Inner::from_pod().tcp();
    packet.resize(14 + 1450 + 1, 0);
    assert_eq!(node.run(PodTx, &packet).action, UNSPEC);
    assert_eq!(node.count(PodTx, Reason::OverMtu).packets, 1);
    packet.truncate(14 + 1450);
    assert_eq!(node.run(PodTx, &packet).action, REDIRECT);
}

/// A test run's GSO is of no kind, which the kernel does not encapsulate. The stack has not given it mark and class yet.
#[test]
fn what_is_refused_takes_the_stack_as_it_came() {
    let mut node = verified_tcp();
    change_flow(&mut node, |flow| {
        flow.tx.change.mark = 0x77;
        flow.tx.change.priority = 5;
    });
    let packet = Inner {
        payload: 2000,
        ..Inner::from_pod()
    }
    .tcp();
    let run = Run {
        packet: &packet,
        gso_size: 1000,
        ..Run::default()
    };
    let out = node.run_with(PodTx, &run);
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
    assert_eq!((out.mark, out.priority), (0, 0));
    assert_eq!(node.count(PodTx, Reason::EncapRefused).packets, 1);
}

#[test]
fn udp_gso_takes_the_stack() {
    let mut node = Node::default().load();
    through_the_stack_out(&mut node, Inner::udp);
    let packet = Inner {
        payload: 2000,
        ..Inner::from_pod()
    }
    .udp();
    let out = node.run_with(
        PodTx,
        &Run {
            packet: &packet,
            gso_size: 1000,
            ..Run::default()
        },
    );
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
    assert_eq!(node.count(PodTx, Reason::UdpGso).packets, 1);
}

/// Not pod to overlay: not even counted.
#[rstest]
#[case::to_the_node(Inner { dst: [10, 244, 1, 1], ..Inner::from_pod() })]
#[case::same_node(Inner { dst: [10, 244, 1, 9], ..Inner::from_pod() })]
#[case::outside(Inner { dst: [8, 8, 8, 8], ..Inner::from_pod() })]
#[case::forged_source(Inner { src: [10, 244, 2, 9], ..Inner::from_pod() })]
fn other_traffic_of_pods_is_untouched(#[case] inner: Inner) {
    let mut node = Node::default().load();
    let packet = inner.tcp();
    let out = node.run(PodTx, &packet);
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
    assert_eq!(node.counted(PodTx), []);
    assert_eq!(node.flows(), []);
}

/// Full-size segments make a flow bulk: through the pair for GRO, judged behind it.
#[test]
fn bulk_goes_through_gro_and_is_delivered_behind_it() {
    let mut node = verified_tcp();
    let full = Inner {
        payload: 1400,
        ..Inner::inbound()
    };
    let out = node.run(UplinkRx, &vxlan(&full.tcp()));
    assert_eq!(out.packet[0..6], Node::default().vtep_mac, "to the pair");
    let small = node.run(UplinkRx, &vxlan(&Inner::inbound().tcp()));
    assert_eq!(
        small.packet[0..6],
        Node::default().vtep_mac,
        "not overtaking"
    );

    let merged = node.run(OverlayRx, &full.tcp());

    assert_eq!(merged.action, REDIRECT);
    assert_eq!(
        merged.packet,
        Inner {
            payload: 1400,
            ..Inner::to_pod()
        }
        .tcp()
    );
    assert_eq!(node.count(OverlayRx, Reason::FastRxGro).packets, 1);
}

#[test]
fn bulk_is_renewed_behind_gro() {
    let mut node = verified_tcp();
    let full = Inner {
        payload: 1400,
        ..Inner::inbound()
    };
    node.run(UplinkRx, &vxlan(&full.tcp()));
    age(&mut node, REFRESH + 100);
    assert_eq!(node.run(OverlayRx, &full.tcp()).action, UNSPEC);
    assert_eq!(node.count(OverlayRx, Reason::Refresh).packets, 1);
    let arrives = Inner {
        payload: 1400,
        ..Inner::to_pod()
    };
    node.run(PodRx, &arrives.tcp());
    assert_eq!(node.run(OverlayRx, &full.tcp()).action, REDIRECT);
}

/// What `uplink_rx` sent to the stack must not be caught on the way.
#[test]
fn a_renewal_of_a_flow_that_is_not_bulk_reaches_the_stack() {
    let mut node = verified_tcp();
    age(&mut node, REFRESH + 100);
    assert!(!is_fast_in(&mut node));
    let frame = Inner::inbound().tcp();
    let out = node.run(OverlayRx, &frame);
    assert_eq!((out.action, out.packet), (UNSPEC, frame));
}

#[test]
fn off_is_off() {
    let mut node = Node {
        fast_path: FAST_PATH_OFF,
        ..Node::default()
    }
    .load();
    for _ in 0..3 {
        through_the_stack_out(&mut node, Inner::tcp);
        through_the_stack_in(&mut node, Inner::tcp);
    }
    assert_eq!(node.flows(), []);
}

#[test]
fn always_asks_for_no_proof() {
    let mut node = Node {
        fast_path: FAST_PATH_ALWAYS,
        ..Node::default()
    }
    .load();
    let syn = node.run(PodTx, &Inner::from_pod().tcp_with(SYN));
    assert_eq!(syn.action, REDIRECT);
    through_the_stack_in(&mut node, Inner::udp);
    let fast = node.run(UplinkRx, &vxlan(&Inner::inbound().tcp_with(0x12)));
    assert_eq!(
        fast.packet[0..6],
        Inner::POD_MAC,
        "the pod is known from any packet to it"
    );
}

/// Which way `uplink_rx` sends a packet to the stack: `DecapGro` over the pair, `DecapDirect` at once.
fn sent(node: &mut Fixture, frame: &[u8]) -> Reason {
    let ways = [Reason::DecapGro, Reason::DecapDirect];
    let before = ways.map(|way| node.count(UplinkRx, way).packets);
    let out = node.run(UplinkRx, &vxlan(frame));
    assert_eq!((out.action, &out.packet[..]), (REDIRECT, frame));
    let after = ways.map(|way| node.count(UplinkRx, way).packets);
    let taken = (0..2).find(|n| after[*n] > before[*n]).unwrap();
    ways[taken]
}

fn acknowledgement() -> Inner {
    Inner {
        payload: 0,
        ..Inner::inbound()
    }
}

fn full_size() -> Inner {
    Inner {
        payload: 1400,
        ..Inner::inbound()
    }
}

/// A frame with another byte in its IPv4 header.
fn patched(mut frame: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    frame[14 + at] = byte;
    frame
}

#[rstest]
#[case::udp(Inner::inbound().udp(), Reason::DecapDirect)]
#[case::udp_fragment(patched(Inner::inbound().udp(), 6, 0x20), Reason::DecapDirect)]
#[case::icmp(patched(Inner::inbound().udp(), 9, 1), Reason::DecapDirect)]
#[case::sctp(patched(Inner::inbound().udp(), 9, 132), Reason::DecapDirect)]
#[case::syn(Inner::inbound().tcp_with(SYN), Reason::DecapDirect)]
#[case::syn_ack(Inner::inbound().tcp_with(SYN_ACK), Reason::DecapDirect)]
#[case::acknowledgement(acknowledgement().tcp(), Reason::DecapDirect)]
#[case::data(Inner::inbound().tcp(), Reason::DecapGro)]
#[case::full_size(full_size().tcp(), Reason::DecapGro)]
#[case::fin(acknowledgement().tcp_with(FIN_ACK), Reason::DecapGro)]
#[case::rst(acknowledgement().tcp_with(RST), Reason::DecapGro)]
#[case::tcp_fragment(patched(Inner::inbound().tcp(), 6, 0x20), Reason::DecapGro)]
#[case::tcp_options(patched(Inner::inbound().tcp(), 0, 0x46), Reason::DecapGro)]
fn only_what_gro_may_merge_crosses_the_pair(
    #[case] frame: Vec<u8>,
    #[case] way: Reason,
    #[values(FAST_PATH_OFF, FAST_PATH_VERIFIED, FAST_PATH_ALWAYS)] fast_path: u8,
) {
    let mut node = Node {
        fast_path,
        ..Node::default()
    }
    .load();
    assert_eq!(sent(&mut node, &frame), way);
}

/// To a node of ours, and from outside the Network.
#[rstest]
#[case::to_the_node(Inner { dst: [10, 244, 1, 0], ..Inner::inbound() })]
#[case::from_a_node(Inner { src: Node::PEER_IP, ..Inner::inbound() })]
fn host_traffic_is_no_exception(#[case] inner: Inner) {
    let mut node = Node::default().load();
    assert_eq!(sent(&mut node, &inner.udp()), Reason::DecapDirect);
    assert_eq!(sent(&mut node, &inner.tcp()), Reason::DecapGro);
}

/// What went before was delivered past the pair; of a bulk flow it may still be on it.
#[rstest]
#[case::fin(FIN_ACK)]
#[case::rst(RST)]
fn the_end_of_a_flow_comes_behind_its_data(#[case] flags: u8) {
    let mut node = verified_tcp();
    assert_eq!(
        sent(&mut node, &acknowledgement().tcp_with(flags)),
        Reason::DecapDirect
    );
    // The other end's, when the proof is over: data since then took the pair.
    assert_eq!(
        sent(&mut node, &acknowledgement().tcp_with(flags)),
        Reason::DecapGro
    );

    let mut node = verified_tcp();
    assert_eq!(sent(&mut node, &full_size().tcp()), Reason::DecapGro);
    assert_eq!(
        sent(&mut node, &acknowledgement().tcp_with(flags)),
        Reason::DecapGro
    );
}

#[test]
fn a_renewal_does_not_wait_for_gro() {
    let mut node = verified_tcp();
    age(&mut node, REFRESH + 100);
    assert_eq!(
        sent(&mut node, &Inner::inbound().tcp()),
        Reason::DecapDirect
    );
    through_the_stack_in(&mut node, Inner::tcp);
    assert!(is_fast_in(&mut node));
}

/// It may overtake the data before it: its number is ahead, and it takes up no room in the stream.
#[test]
fn acknowledgements_of_a_bulk_flow_are_judged_without_the_pair() {
    let mut node = verified_tcp();
    assert_eq!(sent(&mut node, &full_size().tcp()), Reason::DecapGro);
    assert_eq!(
        sent(&mut node, &acknowledgement().tcp()),
        Reason::DecapDirect
    );
    let delivered = node.run(OverlayRx, &acknowledgement().tcp());
    assert_eq!(delivered.action, REDIRECT);
    assert_eq!(node.count(OverlayRx, Reason::FastRxGro).packets, 1);
}

/// A second after its last full-size segment.
#[test]
fn a_flow_that_is_no_longer_bulk_leaves_the_pair() {
    let mut node = verified_tcp();
    assert_eq!(sent(&mut node, &full_size().tcp()), Reason::DecapGro);
    assert!(!is_fast_in(&mut node));
    change_flow(&mut node, |flow| {
        flow.bulk = flow.bulk.wrapping_sub(1_000) | 1;
    });
    assert!(is_fast_in(&mut node));
}
