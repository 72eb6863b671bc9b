//! Tunnel packets that a pod makes itself, packet by packet.

#![cfg(test)]

use flannel_common::Ipv4;
use flannel_common::program::Program::{PodTx, SnatRoom, UplinkTx};
use flannel_common::reason::Reason;
use flannel_tests::packet::world::{UPLINK, here};
use flannel_tests::packet::{Inner, Node, Run, SHOT, UNSPEC, patched};
use rstest::rstest;

const IP: usize = 14;
const L4: usize = 34;
const PORT: [u8; 2] = 8472u16.to_be_bytes();

/// From a pod to the VXLAN port of `dst`.
fn to(dst: Ipv4) -> Vec<u8> {
    let inner = Inner {
        dst,
        ..Inner::from_pod()
    };
    patched(inner.udp(), L4 + 2, &PORT)
}

/// With an option (no operation, four times) between the headers.
fn with_options(mut packet: Vec<u8>) -> Vec<u8> {
    packet[IP] = 0x46;
    packet.splice(L4..L4, [1; 4]);
    packet
}

/// Without an id, so that the kernel takes them off. A test run leaves the first where it is: what would be the second.
const VLAN: [u8; 4] = [0x81, 0, 0, 0];
const SERVICE_VLAN: [u8; 4] = [0x88, 0xa8, 0, 0];

fn behind(tags: &[[u8; 4]], mut packet: Vec<u8>) -> Vec<u8> {
    packet.splice(12..12, tags.concat());
    packet
}

#[rstest]
#[case::for_a_peer(to(Node::PEER_IP))]
#[case::for_its_own_node(to(Node::default().uplink_ip))]
#[case::with_options(with_options(to(Node::PEER_IP)))]
#[case::in_fragments(patched(to(Node::PEER_IP), IP + 6, &[0x20, 0]))]
#[case::behind_a_tag(behind(&[VLAN], to(Node::PEER_IP)))]
#[case::behind_a_service_tag(behind(&[SERVICE_VLAN], with_options(to(Node::PEER_IP))))]
#[case::behind_more_tags_than_anybody_needs(behind(&[SERVICE_VLAN, VLAN], to(Node::PEER_IP)))]
fn is_dropped(#[case] packet: Vec<u8>) {
    let mut node = Node::default().load();
    assert_eq!(node.run(PodTx, &packet).action, SHOT);
    assert_eq!(node.counted(PodTx), [(Reason::PodTunnel, 1)]);
}

#[rstest]
#[case::to_another_port(patched(to(Node::PEER_IP), L4 + 2, &[0, 53]))]
#[case::to_whoever_is_no_node(to([192, 0, 2, 1]))]
#[case::of_another_protocol(patched(to(Node::PEER_IP), IP + 9, &[6]))]
#[case::behind_a_tag_that_the_kernel_leaves(behind(&[[0x81, 0, 0, 7]], to(Node::PEER_IP)))]
#[case::behind_a_first_fragment(patched(to(Node::PEER_IP), IP + 6, &[0, 8]))]
fn what_is_none_passes(#[case] packet: Vec<u8>) {
    let mut node = Node::default().load();
    assert_eq!(node.run(PodTx, &packet).action, UNSPEC);
    assert_eq!(node.count(PodTx, Reason::PodTunnel).packets, 0);
}

/// A flow that began before there was a node ends when there is one.
#[test]
fn goes_on_to_nobody_who_has_become_a_node() {
    let mut node = Node::default().load_snat();
    node.remove_peer(Node::PEER_SUBNET, 24, Node::PEER_IP);
    let packet = to(Node::PEER_IP);
    for _ in 0..2 {
        assert_eq!(node.run(UplinkTx, &packet).action, UNSPEC);
    }
    node.peer(Node::PEER_SUBNET, 24, Node::PEER_IP, Node::PEER_MAC);
    assert_eq!(node.run(UplinkTx, &packet).action, SHOT);
    assert_eq!(node.count(SnatRoom, Reason::PodTunnel).packets, 1);
}

/// With `--fast-path=off` there is nothing at the pod's port.
#[rstest]
#[case::plain(to(Node::PEER_IP))]
#[case::with_options(with_options(to(Node::PEER_IP)))]
fn is_not_sent_in_the_node_s_name(#[case] packet: Vec<u8>) {
    here(|_, world| {
        let run = Run {
            packet: &packet,
            device: UPLINK,
            ..Run::default()
        };
        assert_eq!(world.node.run_with(UplinkTx, &run).action, SHOT);
        assert_eq!(world.count(SnatRoom, Reason::PodTunnel), 1);
    });
}
