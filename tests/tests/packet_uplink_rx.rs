//! `uplink_rx`: what arrives at the uplink, packet by packet.

use flannel_common::program::Program::UplinkRx;
use flannel_common::reason::Reason;
use flannel_common::source::CHECK_OFF;
use flannel_tests::packet::at::{INNER_ETH, INNER_IP, OUTER_IP, OUTER_UDP, VXLAN};
use flannel_tests::packet::{self, Inner, Node, REDIRECT, Run, SHOT, UNSPEC, outer, vxlan};
use rstest::rstest;

fn inbound() -> Vec<u8> {
    vxlan(&Inner::inbound().udp())
}

/// [`inbound`] with other bytes at an offset.
fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    packet::patched(inbound(), at, bytes)
}

#[rstest]
#[case::udp(Inner::inbound().udp(), Reason::DecapDirect)]
#[case::tcp(Inner::inbound().tcp(), Reason::DecapGro)]
fn decapsulates_to_the_byte(#[case] inner: Vec<u8>, #[case] reason: Reason) {
    let mut node = Node::default().load();

    let out = node.run(UplinkRx, &vxlan(&inner));

    assert_eq!(out.action, REDIRECT);
    assert_eq!(out.packet, inner, "the peer's frame, addressed to our VTEP");
    let count = node.count(UplinkRx, reason);
    assert_eq!((count.packets, count.bytes), (1, inner.len() as u64));
}

/// systemd's MACAddressPolicy may have changed the device's MAC behind the lease's back (flannel #1155).
#[test]
fn any_inner_destination_mac_is_ours() {
    let mut node = Node::default().load();
    let inner = Inner {
        dst_mac: [6, 6, 6, 6, 6, 6],
        ..Inner::inbound()
    };
    let out = node.run(UplinkRx, &vxlan(&inner.udp()));
    assert_eq!(out.packet[0..6], Node::default().vtep_mac);
    assert_eq!(out.packet[6..12], Node::PEER_MAC);
}

#[test]
fn longer_than_the_overlay_mtu_goes_to_the_stack_whole() {
    let mut node = Node {
        overlay_mtu: 100,
        ..Node::default()
    }
    .load();
    let inner = Inner {
        payload: 200,
        ..Inner::inbound()
    }
    .tcp();
    let out = node.run(UplinkRx, &vxlan(&inner));
    assert_eq!((out.action, out.packet), (REDIRECT, inner));
    assert_eq!(node.counted(UplinkRx), [(Reason::DecapDirect, 1)]);
}

#[rstest]
#[case::mtu(1450, Reason::DecapGro)]
#[case::above(1451, Reason::DecapDirect)]
fn the_border_is_the_overlay_mtu(#[case] ip_len: usize, #[case] reason: Reason) {
    let mut node = Node::default().load();
    let inner = Inner {
        payload: ip_len - 40,
        ..Inner::inbound()
    }
    .tcp();
    assert_eq!(node.run(UplinkRx, &vxlan(&inner)).action, REDIRECT);
    assert_eq!(node.counted(UplinkRx), [(reason, 1)]);
}

fn large() -> Inner {
    Inner {
        payload: 1200,
        ..Inner::inbound()
    }
}

/// Of UDP the kernel cuts it up for the agent's socket; stripped here, it would be lost when the pod's kernel does. A test run
/// sets `gso_size` but no GSO type, which the kernel refuses to shrink.
#[rstest]
#[case::of_udp(large().udp(), Reason::UdpGso)]
#[case::of_an_unknown_kind(large().tcp(), Reason::DecapRefused)]
// UDP's own GRO does so (`rx-gro-list`, `rx-udp-gro-forwarding`): the inner header speaks of the first alone.
#[case::of_several_datagrams(packet::patched(large().tcp(), 16, &[2, 88]), Reason::LengthMismatch)]
fn gso_is_left_to_the_stack(#[case] inner: Vec<u8>, #[case] reason: Reason) {
    let mut node = Node::default().load();
    let packet = vxlan(&inner);
    let run = Run {
        packet: &packet,
        gso_size: 500,
        ..Run::default()
    };
    let out = node.run_with(UplinkRx, &run);
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
    assert_eq!(node.counted(UplinkRx), [(reason, 1)]);
}

/// RFC 6040 figure 4: inner, outer, result.
#[rstest]
#[case(0b00, 0b00, Some(0b00))]
#[case(0b00, 0b10, Some(0b00))]
#[case(0b00, 0b01, Some(0b00))]
#[case(0b00, 0b11, None)]
#[case(0b10, 0b00, Some(0b10))]
#[case(0b10, 0b10, Some(0b10))]
#[case(0b10, 0b01, Some(0b01))]
#[case(0b10, 0b11, Some(0b11))]
#[case(0b01, 0b00, Some(0b01))]
#[case(0b01, 0b10, Some(0b01))]
#[case(0b01, 0b01, Some(0b01))]
#[case(0b01, 0b11, Some(0b11))]
#[case(0b11, 0b00, Some(0b11))]
#[case(0b11, 0b10, Some(0b11))]
#[case(0b11, 0b01, Some(0b11))]
#[case(0b11, 0b11, Some(0b11))]
fn merges_ecn(#[case] inner: u8, #[case] outer: u8, #[case] want: Option<u8>) {
    let dscp = 0b0110_1000;
    let mut node = Node::default().load();
    let mut packet = vxlan(
        &Inner {
            tos: dscp | inner,
            ..Inner::inbound()
        }
        .udp(),
    );
    packet[OUTER_IP + 1] = outer;

    let out = node.run(UplinkRx, &packet);

    match want {
        Some(ecn) => {
            let frame = Inner {
                tos: dscp | ecn,
                ..Inner::inbound()
            }
            .udp();
            assert_eq!(out.packet, frame, "TOS and header checksum");
        }
        None => {
            assert_eq!(out.action, SHOT);
            assert_eq!(node.counted(UplinkRx), [(Reason::EcnCe, 1)]);
        }
    }
}

/// Not VXLAN for us: another program, a host service, somebody else's packet. Not even counted.
#[rstest]
#[case::arp(patched(12, &[8, 6]))]
#[case::ipv6(patched(12, &[0x86, 0xdd]))]
#[case::vlan(patched(12, &[0x81, 0]))]
#[case::tcp(patched(OUTER_IP + 9, &[6]))]
#[case::other_address(patched(OUTER_IP + 16, &[192, 168, 0, 77]))]
#[case::other_port(patched(OUTER_UDP + 2, &4789u16.to_be_bytes()))]
#[case::not_for_this_host(patched(0, &[2, 0, 0, 0, 0, 0x77]))]
#[case::ip_version(patched(OUTER_IP, &[0x65]))]
fn what_is_not_ours_is_untouched(#[case] packet: Vec<u8>) {
    let mut node = Node::default().load();
    let out = node.run(UplinkRx, &packet);
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
    assert_eq!(node.counted(UplinkRx), []);
}

/// Left to the kernel, which reassembles and strips options, and to the agent's socket behind it.
#[rstest]
#[case::first_fragment(patched(OUTER_IP + 6, &[0x20, 0]), Reason::OuterFragment)]
#[case::other_vni(patched(VXLAN + 4, &[0, 0, 2, 0]), Reason::OtherVni)]
#[case::inner_ipv6(patched(INNER_ETH + 12, &[0x86, 0xdd]), Reason::NotIpv4)]
#[case::inner_vlan(patched(INNER_ETH + 12, &[0x81, 0]), Reason::NotIpv4)]
#[case::inner_version(patched(INNER_IP, &[0x65]), Reason::NotIpv4)]
#[case::inner_header_length(patched(INNER_IP, &[0x44]), Reason::NotIpv4)]
#[case::inner_longer_than_datagram(patched(INNER_IP + 2, &[0x7f, 0]), Reason::LengthMismatch)]
#[case::inner_shorter_than_header(patched(INNER_IP + 2, &[0, 19]), Reason::LengthMismatch)]
#[case::udp_shorter_than_ip(patched(OUTER_UDP + 4, &[0, 60]), Reason::LengthMismatch)]
#[case::ip_longer_than_packet(patched(OUTER_IP + 2, &[0x7f, 0]), Reason::Truncated)]
fn left_to_the_stack_unchanged(#[case] packet: Vec<u8>, #[case] reason: Reason) {
    let mut node = Node::default().load();
    let out = node.run(UplinkRx, &packet);
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
    assert_eq!(node.counted(UplinkRx), [(reason, 1)]);
}

#[test]
fn outer_options_are_left_to_the_stack() {
    let mut node = Node::default().load();
    let mut packet = inbound();
    packet.splice(OUTER_UDP..OUTER_UDP, [1, 1, 1, 0]);
    packet[OUTER_IP] = 0x46;
    let out = node.run(UplinkRx, &packet);
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
    assert_eq!(node.counted(UplinkRx), [(Reason::OuterOptions, 1)]);
}

/// Every flag and reserved bit that flannel's kernel device refuses.
#[test]
fn vxlan_flags_must_be_exactly_the_vni_flag() {
    let mut node = Node::default().load();
    let mut refused = 0;
    for bit in (0..32).chain(56..64) {
        let mut packet = inbound();
        packet[VXLAN + bit / 8] ^= 0x80 >> (bit % 8);
        let out = node.run(UplinkRx, &packet);
        assert_eq!(out.action, SHOT, "bit {bit}");
        refused += 1;
    }
    assert_eq!(node.counted(UplinkRx), [(Reason::BadVxlanFlags, refused)]);
}

#[rstest]
#[case::unknown_node([192, 168, 0, 66], [10, 244, 2, 7], Reason::UnknownVtep)]
#[case::unknown_node_own_source([192, 168, 0, 66], [172, 16, 0, 1], Reason::UnknownVtep)]
#[case::other_nodes_pod([192, 168, 0, 2], [10, 244, 3, 7], Reason::SpoofedSource)]
#[case::our_pod([192, 168, 0, 2], [10, 244, 1, 7], Reason::SpoofedSource)]
fn forged_sources_are_dropped(
    #[case] outer_src: [u8; 4],
    #[case] inner_src: [u8; 4],
    #[case] reason: Reason,
) {
    let mut packet = vxlan(
        &Inner {
            src: inner_src,
            ..Inner::inbound()
        }
        .udp(),
    );
    packet[OUTER_IP + 12..OUTER_IP + 16].copy_from_slice(&outer_src);
    packet[INNER_ETH + 6..INNER_ETH + 12].copy_from_slice(&[2, 0, 0, 0, 0, 0x66]);

    let mut strict = Node::default().load();
    strict.peer([10, 244, 3, 0], 24, [192, 168, 0, 3], [2, 0, 0, 0, 0, 3]);
    assert_eq!(strict.run(UplinkRx, &packet).action, SHOT);
    assert_eq!(strict.counted(UplinkRx), [(reason, 1)]);

    let mut off = Node {
        source_check: CHECK_OFF,
        ..Node::default()
    }
    .load();
    assert_eq!(off.run(UplinkRx, &packet).action, REDIRECT);
}

/// A node's own address, or a client's of a Network of 10.0.0.0/8: traffic that a peer passes on with its source.
#[rstest]
#[case::outside_the_network(Node::PEER_IP)]
#[case::inside_it([10, 244, 250, 5])]
fn a_peer_may_send_from_where_nobody_leases(#[case] src: [u8; 4]) {
    let mut node = Node::default().load();
    let packet = vxlan(
        &Inner {
            src,
            ..Inner::inbound()
        }
        .udp(),
    );
    assert_eq!(node.run(UplinkRx, &packet).action, REDIRECT);
}

#[test]
fn vni_and_port_of_the_config_are_used() {
    let mut node = Node {
        vni: 0x12_3456,
        port: 4789,
        ..Node::default()
    }
    .load();
    let mut packet = patched(VXLAN + 4, &[0x12, 0x34, 0x56, 0]);
    packet[OUTER_UDP + 2..OUTER_UDP + 4].copy_from_slice(&4789u16.to_be_bytes());
    assert_eq!(node.run(UplinkRx, &packet).action, REDIRECT);
}

/// Cut off at each length: no length decapsulates what is not whole, none is dropped.
#[test]
fn cut_off_at_every_length() {
    let mut node = Node::default().load();
    let whole = inbound();
    for len in 34..whole.len() {
        let out = node.run(UplinkRx, &whole[..len]);
        assert_eq!(out.action, UNSPEC, "{len} bytes");
        assert_eq!(out.packet, whole[..len], "{len} bytes");
    }
}

/// Truthful outer lengths around a frame that is cut off.
#[test]
fn inner_frame_cut_off_at_every_length() {
    let mut node = Node::default().load();
    let frame = Inner::inbound().udp();
    for len in 0..frame.len() {
        let mut payload = vec![8, 0, 0, 0, 0, 0, 1, 0];
        payload.extend_from_slice(&frame[..len]);
        let packet = outer(&payload);
        let out = node.run(UplinkRx, &packet);
        assert_eq!((out.action, out.packet), (UNSPEC, packet), "{len} bytes");
    }
}

/// Ethernet pads short frames; the trailer is not part of the datagram and the stack trims it.
#[test]
fn a_padded_packet_is_decapsulated() {
    let mut node = Node::default().load();
    let mut packet = inbound();
    packet.extend_from_slice(&[0; 6]);
    assert_eq!(node.run(UplinkRx, &packet).action, REDIRECT);
}
