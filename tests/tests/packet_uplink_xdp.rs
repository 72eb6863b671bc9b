//! `uplink_xdp`: outer headers off at the driver, and nothing else touched.

use flannel_common::program::Program::UplinkXdp;
use flannel_common::reason::Reason;
use flannel_tests::packet::at::{INNER_ETH, INNER_IP, OUTER_IP, OUTER_UDP, VXLAN};
use flannel_tests::packet::{self, Inner, Node, XDP_DROP, XDP_PASS, vxlan};
use rstest::rstest;

fn inbound() -> Vec<u8> {
    vxlan(&Inner::inbound().tcp())
}

/// [`inbound`] with other bytes at an offset.
fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    packet::patched(inbound(), at, bytes)
}

#[test]
fn strips_to_the_byte() {
    let mut node = Node::default().load();
    let out = node.run_xdp(&inbound());
    assert_eq!(out.action, XDP_PASS);
    let want = Inner {
        dst_mac: [0; 6],
        ..Inner::inbound()
    }
    .tcp();
    // A test run returns the metadata in front of the frame.
    let (meta, frame) = out.packet.split_at(8);
    assert_eq!(meta[4..], Node::PEER_IP, "the outer source, for xdp_rx");
    assert_eq!(frame, want, "addressed to the uplink, from the peer's VTEP");
    assert_eq!(node.counted(UplinkXdp), [(Reason::XdpDecap, 1)]);
}

/// Left as it is for `uplink_rx`, which counts it.
#[rstest]
#[case::ipv6(patched(12, &[0x86, 0xdd]))]
#[case::not_for_this_host(patched(0, &[2, 0, 0, 0, 0, 0x77]))]
#[case::tcp(patched(OUTER_IP + 9, &[6]))]
#[case::other_address(patched(OUTER_IP + 16, &[192, 168, 0, 77]))]
#[case::other_port(patched(OUTER_UDP + 2, &4789u16.to_be_bytes()))]
#[case::outer_options(patched(OUTER_IP, &[0x46]))]
#[case::outer_fragment(patched(OUTER_IP + 6, &[0x20, 0]))]
#[case::other_vni(patched(VXLAN + 4, &[0, 0, 2, 0]))]
#[case::inner_ipv6(patched(INNER_ETH + 12, &[0x86, 0xdd]))]
#[case::inner_length(patched(INNER_IP + 2, &[0x7f, 0]))]
#[case::outer_length(patched(OUTER_IP + 2, &[0x7f, 0]))]
#[case::congestion_mark(vxlan(&Inner { tos: 2, ..Inner::inbound() }.tcp()).tap(|p| p[OUTER_IP + 1] = 3))]
fn what_needs_thought_passes_unchanged(#[case] packet: Vec<u8>) {
    let mut node = Node::default().load();
    let out = node.run_xdp(&packet);
    assert_eq!((out.action, out.packet), (XDP_PASS, packet));
    assert_eq!(node.counted(UplinkXdp), []);
}

#[rstest]
#[case::unknown_node(patched(OUTER_IP + 12, &[192, 168, 0, 66]).tap(|p| p[INNER_ETH + 6] = 6), Reason::UnknownVtep)]
#[case::forged(patched(INNER_IP + 12, &[10, 244, 1, 9]), Reason::SpoofedSource)]
#[case::flags(patched(VXLAN, &[0x88]), Reason::BadVxlanFlags)]
fn what_uplink_rx_would_drop_is_dropped_here(#[case] packet: Vec<u8>, #[case] reason: Reason) {
    let mut node = Node::default().load();
    assert_eq!(node.run_xdp(&packet).action, XDP_DROP);
    assert_eq!(node.counted(UplinkXdp), [(reason, 1)]);
}

#[test]
fn cut_off_at_every_length() {
    let mut node = Node::default().load();
    let whole = inbound();
    for len in 14..whole.len() {
        let out = node.run_xdp(&whole[..len]);
        assert_eq!(
            (out.action, out.packet.as_slice()),
            (XDP_PASS, &whole[..len]),
            "{len} bytes"
        );
    }
}

trait Tap: Sized {
    fn tap(self, change: impl FnOnce(&mut Self)) -> Self;
}

impl Tap for Vec<u8> {
    fn tap(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}
