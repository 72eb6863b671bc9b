//! The verified fast path, packet by packet: what proves a flow, what it may then skip, what ends it.

#![cfg(test)]

use flannel_common::flow::{LIFETIME, REFRESH};
use flannel_common::globals::{POD_HOOK_BRIDGE, POD_HOOK_PORT};
use flannel_common::program::Program::{OverlayTx, PodRx, PodTx, UplinkRx};
use flannel_common::reason::Reason;
use flannel_tests::packet::at::INNER_ETH;
use flannel_tests::packet::flows::{
    FIN_ACK, RST, SYN, SYN_ACK, age, change_flow, is_fast_in, is_fast_out, tcp_key,
    through_the_stack_in, through_the_stack_out, udp_key, verified_tcp,
};
use flannel_tests::packet::{Fixture, Inner, Node, REDIRECT, SHOT, UNSPEC, patched, vxlan};
use rstest::rstest;

#[test]
fn tcp_is_fast_when_both_directions_came_through_the_stack() {
    let mut node = Node::default().load();
    through_the_stack_out(&mut node, Inner::tcp);
    assert!(
        !is_fast_out(&mut node),
        "one direction proves nothing for TCP"
    );
    through_the_stack_in(&mut node, Inner::tcp);
    assert!(is_fast_out(&mut node));
    assert!(is_fast_in(&mut node));
}

/// The fast packet equals what the slow one became at the other end of the stack, byte for byte.
#[test]
fn a_fast_packet_leaves_as_the_stack_would_have_sent_it() {
    let mut node = verified_tcp();

    let fast = node.run(PodTx, &Inner::from_pod().tcp());
    let slow = node.run(OverlayTx, &Inner::outbound().tcp());

    assert_eq!(fast.action, REDIRECT);
    assert_eq!(fast.packet[14..18], slow.packet[14..18]);
    // Identification and the checksum over it differ.
    assert_eq!(fast.packet[20..24], slow.packet[20..24]);
    assert_eq!(
        fast.packet[26..],
        slow.packet[26..],
        "TTL 63, source port, everything"
    );
}

#[test]
fn a_fast_packet_arrives_as_the_bridge_would_have_delivered_it() {
    let mut node = verified_tcp();
    let fast = node.run(UplinkRx, &vxlan(&Inner::inbound().tcp()));
    assert_eq!(fast.action, REDIRECT);
    assert_eq!(
        fast.packet,
        Inner::to_pod().tcp(),
        "TTL 62, both MACs, header checksum"
    );
    assert_eq!(node.count(UplinkRx, Reason::FastRx).packets, 1);
}

#[test]
fn udp_is_fast_in_each_direction_on_its_own() {
    let mut node = Node::default().load();
    through_the_stack_out(&mut node, Inner::udp);
    assert_eq!(node.run(PodTx, &Inner::from_pod().udp()).action, REDIRECT);

    let mut node = Node::default().load();
    through_the_stack_in(&mut node, Inner::udp);
    let fast = node.run(UplinkRx, &vxlan(&Inner::inbound().udp()));
    assert_eq!(fast.packet, Inner::to_pod().udp());
}

/// On the bridge a packet is already translated, so one direction alone may be half of a NATed flow.
#[test]
fn udp_needs_both_directions_at_the_bridge() {
    let mut node = Node {
        pod_hook: POD_HOOK_BRIDGE,
        ..Node::default()
    }
    .load();
    through_the_stack_out(&mut node, Inner::udp);
    assert_eq!(node.run(PodTx, &Inner::from_pod().udp()).action, UNSPEC);
    through_the_stack_in(&mut node, Inner::udp);
    assert_eq!(node.run(PodTx, &Inner::from_pod().udp()).action, REDIRECT);
}

/// `bpf_redirect_peer` to a bridge drops: whoever delivers must know what was noted, also while a program of another
/// setting is still about.
#[test]
fn a_flow_says_whether_it_is_delivered_to_a_port_or_to_the_bridge() {
    for pod_hook in [POD_HOOK_PORT, POD_HOOK_BRIDGE] {
        let mut node = Node {
            pod_hook,
            ..Node::default()
        }
        .load();
        through_the_stack_in(&mut node, Inner::tcp);
        assert_eq!(node.flow(&tcp_key()).unwrap().hook, pod_hook);
    }
}

/// kube-proxy: the pod talks to a ClusterIP, the overlay sees the backend. Neither tuple passes both hooks.
#[test]
fn a_translated_flow_is_never_fast() {
    let cluster_ip = [10, 96, 0, 10];
    let to_service = Inner {
        dst: cluster_ip,
        ..Inner::from_pod()
    };
    let from_service = Inner {
        src: cluster_ip,
        ..Inner::to_pod()
    };
    let mut node = Node::default().load();
    for _ in 0..5 {
        assert_eq!(node.run(PodTx, &to_service.tcp()).action, UNSPEC);
        assert_eq!(
            node.run(OverlayTx, &Inner::outbound().tcp()).action,
            REDIRECT
        );
        assert_eq!(
            node.run(UplinkRx, &vxlan(&Inner::inbound().tcp())).action,
            REDIRECT
        );
        assert_eq!(node.run(PodRx, &from_service.tcp()).action, UNSPEC);
    }
    assert_eq!(node.count(UplinkRx, Reason::FastRx).packets, 0);
    assert_eq!(node.flows(), []);
}

/// At the bridge with br_netfilter on, what goes out looks plain; what comes back does not.
#[test]
fn a_flow_translated_before_the_bridge_is_never_fast() {
    let mut node = Node {
        pod_hook: POD_HOOK_BRIDGE,
        ..Node::default()
    }
    .load();
    for make in [Inner::tcp, Inner::udp] {
        for _ in 0..3 {
            assert_eq!(node.run(PodTx, &make(&Inner::from_pod())).action, UNSPEC);
            node.run(OverlayTx, &make(&Inner::outbound()));
            node.run(UplinkRx, &vxlan(&make(&Inner::inbound())));
            node.run(
                PodRx,
                &make(&Inner {
                    src: [10, 96, 0, 10],
                    ..Inner::to_pod()
                }),
            );
        }
    }
    assert_eq!(node.count(PodTx, Reason::FastTx).packets, 0);
    assert_eq!(node.count(UplinkRx, Reason::FastRx).packets, 0);
}

/// A policy that drops: the packet goes in and does not come out.
#[test]
fn a_dropped_flow_is_never_fast() {
    let mut node = Node::default().load();
    for _ in 0..5 {
        assert_eq!(node.run(PodTx, &Inner::from_pod().udp()).action, UNSPEC);
        node.run(UplinkRx, &vxlan(&Inner::inbound().udp()));
    }
    assert_eq!(node.count(PodTx, Reason::FastTx).packets, 0);
    assert_eq!(node.count(UplinkRx, Reason::FastRx).packets, 0);
}

/// A segment with these flags, from our pod or to it.
#[track_caller]
fn takes_the_stack(node: &mut Fixture, flags: u8, from_pod: bool) {
    if from_pod {
        assert_eq!(
            node.run(PodTx, &Inner::from_pod().tcp_with(flags)).action,
            UNSPEC
        );
    } else {
        let out = node.run(UplinkRx, &vxlan(&Inner::inbound().tcp_with(flags)));
        assert_eq!(out.packet[0..6], Node::default().vtep_mac, "to the stack");
    }
}

#[rstest]
#[case::fin(FIN_ACK)]
#[case::rst(RST)]
fn fin_and_rst_leave_no_live_entry(#[case] flags: u8, #[values(true, false)] from_pod: bool) {
    let mut node = verified_tcp();
    takes_the_stack(&mut node, flags, from_pod);
    assert!(!is_fast_out(&mut node) && !is_fast_in(&mut node));
    // The last acknowledgements pass both hooks and prove nothing.
    through_the_stack_out(&mut node, Inner::tcp);
    through_the_stack_in(&mut node, Inner::tcp);
    assert!(!is_fast_out(&mut node) && !is_fast_in(&mut node));
}

#[rstest]
#[case::syn(SYN)]
#[case::syn_ack(SYN_ACK)]
fn syn_takes_the_stack_and_forgets_the_old_connection(
    #[case] flags: u8,
    #[values(true, false)] from_pod: bool,
) {
    let mut node = verified_tcp();
    takes_the_stack(&mut node, flags, from_pod);
    let flow = node.flow(&tcp_key()).unwrap();
    assert_eq!((flow.tx.verified, flow.rx.verified), (0, 0));
    assert!(!is_fast_out(&mut node) && !is_fast_in(&mut node));
    through_the_stack_out(&mut node, Inner::tcp);
    through_the_stack_in(&mut node, Inner::tcp);
    assert!(is_fast_out(&mut node));
}

/// Takes a packet through the stack.
type Passes = fn(&mut Fixture, fn(&Inner) -> Vec<u8>);

/// On the client's node and on the server's: conntrack has seen all three packets before the first one is fast.
#[rstest]
#[case::by_our_pod(through_the_stack_out, through_the_stack_in, is_fast_in)]
#[case::by_a_peers_pod(through_the_stack_in, through_the_stack_out, is_fast_out)]
fn an_opened_flow_is_fast_after_the_handshake(
    #[case] asks: Passes,
    #[case] answers: Passes,
    #[case] is_fast: fn(&mut Fixture) -> bool,
) {
    let mut node = Node::default().load();
    asks(&mut node, |inner| inner.tcp_with(SYN));
    assert_eq!(node.flows(), []);
    answers(&mut node, |inner| inner.tcp_with(SYN_ACK));
    assert!(!is_fast(&mut node), "the handshake is not over");
    asks(&mut node, Inner::tcp);
    assert!(is_fast_out(&mut node) && is_fast_in(&mut node));
}

/// It does not come out, or not as it went in: a policy, or kube-proxy.
#[test]
fn an_answer_that_the_stack_keeps_proves_nothing() {
    let mut node = Node::default().load();
    node.run(UplinkRx, &vxlan(&Inner::inbound().tcp_with(SYN_ACK)));
    through_the_stack_out(&mut node, Inner::tcp);
    assert!(!is_fast_out(&mut node) && !is_fast_in(&mut node));
}

#[test]
fn control_segments_enter_no_flow() {
    let mut node = Node::default().load();
    for flags in [SYN, FIN_ACK, RST] {
        node.run(PodTx, &Inner::from_pod().tcp_with(flags));
        node.run(UplinkRx, &vxlan(&Inner::inbound().tcp_with(flags)));
    }
    assert_eq!(node.flows(), []);
}

#[test]
fn one_packet_in_five_seconds_takes_the_stack() {
    let mut node = verified_tcp();
    age(&mut node, REFRESH + 100);
    assert!(!is_fast_out(&mut node), "the first one renews");
    assert_eq!(node.count(PodTx, Reason::Refresh).packets, 1);
    assert!(!is_fast_out(&mut node), "the others behind it");
    node.run(OverlayTx, &Inner::outbound().tcp());
    assert!(is_fast_out(&mut node), "it came out");
    assert!(!is_fast_in(&mut node), "each direction on its own");
    through_the_stack_in(&mut node, Inner::tcp);
    assert!(is_fast_in(&mut node));
}

/// And one of each port now and then, whichever flow it is of: the bridge learns where a pod is from what comes in there.
#[test]
fn the_bridge_is_shown_a_packet_of_each_port_now_and_then() {
    let mut node = Node {
        show_gap: 10_000,
        ..Node::default()
    }
    .load();
    through_the_stack_out(&mut node, Inner::udp);
    let udp = Inner::from_pod().udp();
    assert_eq!(node.run(PodTx, &udp).action, UNSPEC);
    assert_eq!(node.run(PodTx, &udp).action, UNSPEC, "nor overtaken");
    assert_eq!(node.count(PodTx, Reason::Refresh).packets, 2);
    node.run(OverlayTx, &Inner::outbound().udp());
    for _ in 0..3 {
        assert_eq!(node.run(PodTx, &udp).action, REDIRECT);
    }
}

#[test]
fn fifteen_seconds_without_renewal_end_the_flow() {
    let mut node = verified_tcp();
    age(&mut node, LIFETIME + 100);
    for _ in 0..3 {
        assert!(!is_fast_out(&mut node) && !is_fast_in(&mut node));
    }
    through_the_stack_out(&mut node, Inner::tcp);
    through_the_stack_in(&mut node, Inner::tcp);
    assert!(is_fast_out(&mut node), "and it can come back");
}

#[test]
fn a_new_epoch_ends_every_proof_at_once() {
    let mut node = verified_tcp();
    node.bump_epoch();
    assert!(!is_fast_out(&mut node) && !is_fast_in(&mut node));
    through_the_stack_out(&mut node, Inner::tcp);
    through_the_stack_in(&mut node, Inner::tcp);
    assert!(is_fast_out(&mut node) && is_fast_in(&mut node));
}

/// The lease changed its MAC or PublicIP: with the epoch the old action is gone.
#[test]
fn after_a_lease_change_the_flow_follows() {
    let mut node = verified_tcp();
    node.peer(
        Node::PEER_SUBNET,
        24,
        [192, 168, 0, 20],
        [2, 0, 0, 0, 0, 0x20],
    );
    node.bump_epoch();
    through_the_stack_out(&mut node, Inner::tcp);
    node.bump_epoch();
    through_the_stack_out(&mut node, Inner::tcp);
    let flow = node.flow(&tcp_key()).unwrap();
    assert_eq!(flow.peer.public_ip, [192, 168, 0, 20]);
    assert_eq!(flow.peer.vtep_mac, [2, 0, 0, 0, 0, 0x20]);
}

/// Anti-spoofing holds for proven flows too: the proof names the peer.
#[test]
fn a_forged_outer_source_does_not_ride_on_a_proven_flow() {
    let mut node = verified_tcp();
    node.peer([10, 244, 3, 0], 24, [192, 168, 0, 3], [2, 0, 0, 0, 0, 3]);
    let mut packet = vxlan(&Inner::inbound().tcp());
    packet[14 + 12..14 + 16].copy_from_slice(&[192, 168, 0, 3]);
    packet[INNER_ETH + 6..INNER_ETH + 12].copy_from_slice(&[2, 0, 0, 0, 0, 3]);
    assert_eq!(node.run(UplinkRx, &packet).action, SHOT);
    assert_eq!(node.count(UplinkRx, Reason::SpoofedSource).packets, 1);
}

/// Until its first packet a flow that is proven names no peer, and an address that is none can be forged.
#[test]
fn nobody_s_address_does_not_ride_on_a_proven_flow() {
    let mut node = verified_tcp();
    change_flow(&mut node, |flow| flow.rx_peer = [0; 4]);
    let mut packet = vxlan(&Inner::inbound().tcp());
    packet[14 + 12..14 + 16].copy_from_slice(&[0; 4]);
    assert_eq!(node.run(UplinkRx, &packet).action, SHOT);
    assert!(is_fast_in(&mut node));
}

/// Nothing that a pod sends has the agent's socket for its way.
#[rstest]
#[case::shorter_than_any(0x40)]
#[case::longer_than_the_packet(0xf0)]
fn an_impossible_tcp_header_is_decapsulated(#[case] offset: u8) {
    let mut node = verified_tcp();
    let inner = patched(Inner::inbound().tcp(), 34 + 12, &[offset]);
    assert_eq!(node.run(UplinkRx, &vxlan(&inner)).action, REDIRECT);
    assert_eq!(node.count(UplinkRx, Reason::Truncated).packets, 0);
}

/// conntrack's helpers read every packet of such a connection, for the ones that it announces.
#[test]
fn what_a_helper_may_read_is_never_fast() {
    fn ftp(inner: &Inner) -> Vec<u8> {
        let mut packet = inner.tcp();
        for at in [34, 36] {
            if packet[at..at + 2] == 80u16.to_be_bytes() {
                packet[at..at + 2].copy_from_slice(&21u16.to_be_bytes());
            }
        }
        packet
    }
    let mut node = Node::default().load();
    for _ in 0..3 {
        through_the_stack_out(&mut node, ftp);
        through_the_stack_in(&mut node, ftp);
    }
    assert_eq!(node.flows(), []);
}

/// A lease that is gone: its epoch is over, and so is its right to send.
#[test]
fn the_source_is_checked_again_in_a_new_epoch() {
    let mut node = verified_tcp();
    node.remove_peer(Node::PEER_SUBNET, 24, Node::PEER_IP);
    node.bump_epoch();
    assert_eq!(
        node.run(UplinkRx, &vxlan(&Inner::inbound().tcp())).action,
        SHOT
    );
}

#[test]
fn a_flow_is_one_entry() {
    let mut node = verified_tcp();
    through_the_stack_out(&mut node, Inner::udp);
    through_the_stack_in(&mut node, Inner::udp);
    let mut keys: Vec<_> = node.flows().into_iter().map(|(key, _)| key).collect();
    keys.sort();
    assert_eq!(keys, [udp_key(), tcp_key()]);
}
