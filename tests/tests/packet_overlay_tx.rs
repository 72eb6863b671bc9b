//! `overlay_tx` and `overlay_catch`: what the stack routed to the overlay, packet by packet.

use std::collections::HashSet;

use flannel_common::program::Program::{self, OverlayCatch, OverlayTx};
use flannel_common::reason::Reason;
use flannel_common::{csum, source_port};
use flannel_tests::packet::{Inner, Node, REDIRECT, Run, SHOT, UNSPEC};
use rstest::rstest;

/// Every byte of the 50 between the Ethernet header and the inner IPv4 header, and every byte behind.
#[rstest]
#[case::udp(Inner::outbound().udp())]
#[case::tcp(Inner::outbound().tcp())]
fn encapsulates_to_the_byte(#[case] inner: Vec<u8>) {
    let mut node = Node::default().load();

    let out = node.run(OverlayTx, &inner);

    assert_eq!(out.action, REDIRECT);
    assert_eq!(out.packet.len(), inner.len() + 50);
    assert_eq!(out.packet[64..], inner[14..], "inner packet untouched");

    let ip = &out.packet[14..34];
    let len = |of: usize| u16::try_from(of).unwrap().to_be_bytes();
    assert_eq!(ip[0..2], [0x45, 0], "version, TOS");
    assert_eq!(ip[2..4], len(inner.len() - 14 + 50), "total length");
    assert_eq!(ip[6..8], [0, 0], "DF clear, no fragment");
    assert_eq!(ip[8..10], [64, 17], "TTL, UDP");
    assert_eq!(
        ip[10..12],
        csum::ipv4_header(ip.try_into().unwrap()),
        "header checksum"
    );
    assert_eq!(ip[12..16], [192, 168, 0, 1], "our address");
    assert_eq!(ip[16..20], Node::PEER_IP, "PublicIP of the lease");

    let udp = &out.packet[34..42];
    let src = u16::from_be_bytes([udp[0], udp[1]]);
    assert!(
        (32768..=60999).contains(&src),
        "source port {src} in the local range"
    );
    assert_eq!(udp[2..4], 8472u16.to_be_bytes(), "destination port");
    assert_eq!(udp[4..6], len(inner.len() + 16), "UDP length");
    assert_eq!(udp[6..8], [0, 0], "no UDP checksum");

    assert_eq!(out.packet[42..50], [8, 0, 0, 0, 0, 0, 1, 0], "VXLAN header");
    assert_eq!(
        out.packet[50..56],
        Node::PEER_MAC,
        "inner destination: the peer's VTEP"
    );
    assert_eq!(
        out.packet[56..62],
        [2, 0, 0, 0, 0, 1],
        "inner source: our VTEP"
    );
    assert_eq!(out.packet[62..64], [8, 0], "inner ethertype");

    let count = node.count(OverlayTx, Reason::Encap);
    assert_eq!((count.packets, count.bytes), (1, out.packet.len() as u64));
}

#[test]
fn identification_varies() {
    let mut node = Node::default().load();
    let ids: HashSet<[u8; 2]> = (0..8)
        .map(|_| {
            node.run(OverlayTx, &Inner::outbound().udp()).packet[18..20]
                .try_into()
                .unwrap()
        })
        .collect();
    assert!(
        ids.len() > 1,
        "eight packets with one identification: {ids:?}"
    );
}

#[test]
fn source_port_is_one_per_flow_and_differs_between_flows() {
    let mut node = Node::default().load();
    let mut port = |last: u8| {
        let inner = Inner {
            src: [10, 244, 1, last],
            ..Inner::outbound()
        };
        let out = node.run(OverlayTx, &inner.udp());
        [out.packet[34], out.packet[35]]
    };
    assert_eq!(port(5), port(5));
    let ports: HashSet<_> = (1..=20).map(port).collect();
    assert!(ports.len() > 10, "20 flows share {} ports", ports.len());
}

#[test]
fn source_port_keeps_to_a_narrow_range() {
    let mut node = Node {
        ports: (50_000, 50_000),
        ..Node::default()
    }
    .load();
    let out = node.run(OverlayTx, &Inner::outbound().udp());
    assert_eq!(
        out.packet[34..36],
        source_port::from_hash(1, 50_000, 50_000)
    );
}

#[rstest]
#[case::not_ect(0b00, 0b00)]
#[case::ect_1(0b01, 0b01)]
#[case::ect_0(0b10, 0b10)]
#[case::ce(0b11, 0b10)]
fn copies_ecn_but_not_dscp(#[case] inner: u8, #[case] outer: u8) {
    let mut node = Node::default().load();
    let packet = Inner {
        tos: 0b1011_1000 | inner,
        ..Inner::outbound()
    }
    .udp();
    let out = node.run(OverlayTx, &packet);
    assert_eq!(out.packet[15], outer);
    assert_eq!(out.packet[65], packet[15], "inner TOS untouched");
}

#[test]
fn vni_and_port_of_the_config_are_used() {
    let mut node = Node {
        vni: 0x12_3456,
        port: 4789,
        ..Node::default()
    }
    .load();
    let out = node.run(OverlayTx, &Inner::outbound().udp());
    assert_eq!(out.packet[36..38], 4789u16.to_be_bytes());
    assert_eq!(out.packet[46..50], [0x12, 0x34, 0x56, 0]);
}

#[test]
fn longest_prefix_wins() {
    let mut node = Node::default().load();
    node.peer([10, 244, 2, 0], 28, [192, 168, 0, 9], [2, 0, 0, 0, 0, 9]);
    let out = node.run(OverlayTx, &Inner::outbound().udp());
    assert_eq!(out.packet[30..34], [192, 168, 0, 9]);
    let out = node.run(
        OverlayTx,
        &Inner {
            dst: [10, 244, 2, 77],
            ..Inner::outbound()
        }
        .udp(),
    );
    assert_eq!(out.packet[30..34], Node::PEER_IP);
}

/// As a kernel vxlan device does it: rules of the node may route and shape the outer packet by it.
#[test]
fn the_mark_stays_with_the_packet() {
    let mut node = Node::default().load();
    let inner = Inner::outbound().udp();
    let out = node.run_with(
        OverlayTx,
        &Run {
            packet: &inner,
            mark: 0x4000,
            ..Run::default()
        },
    );
    assert_eq!((out.action, out.mark), (REDIRECT, 0x4000));
}

/// A test run sets `gso_size` but no GSO type, which is just the GSO the kernel refuses to encapsulate
/// (as SCTP's): first left to software segmentation behind the hook, then counted as lost.
#[rstest]
#[case::first_try(OverlayTx, UNSPEC, Reason::EncapRefused)]
#[case::last_try(OverlayCatch, SHOT, Reason::UnhandledTx)]
fn gso_of_an_unknown_kind(#[case] program: Program, #[case] action: i32, #[case] reason: Reason) {
    let mut node = Node::default().load();
    let inner = Inner {
        payload: 2000,
        ..Inner::outbound()
    }
    .tcp();
    let out = node.run_with(
        program,
        &Run {
            packet: &inner,
            gso_size: 1398,
            ..Run::default()
        },
    );
    assert_eq!((out.action, out.packet), (action, inner));
    assert_eq!(node.counted(program), [(reason, 1)]);
}

#[rstest]
#[case::first_try(OverlayTx)]
#[case::last_try(OverlayCatch)]
fn no_lease_for_the_destination(#[case] program: Program) {
    let mut node = Node::default().load();
    let packet = Inner {
        dst: [10, 244, 3, 1],
        ..Inner::outbound()
    }
    .udp();
    assert_eq!(node.run(program, &packet).action, SHOT);
    assert_eq!(node.counted(program), [(Reason::NoPeer, 1)]);
}

#[rstest]
#[case::multicast([224, 0, 0, 251])]
#[case::broadcast([255, 255, 255, 255])]
fn not_unicast_is_dropped(#[case] dst: [u8; 4]) {
    let mut node = Node::default().load();
    let packet = Inner {
        dst,
        ..Inner::outbound()
    }
    .udp();
    assert_eq!(node.run(OverlayTx, &packet).action, SHOT);
    assert_eq!(node.counted(OverlayTx), [(Reason::NotUnicast, 1)]);
}

#[rstest]
#[case::ipv6([0x86, 0xdd])]
#[case::arp([0x08, 0x06])]
#[case::vlan([0x81, 0x00])]
fn other_protocols_pass_untouched(#[case] ethertype: [u8; 2]) {
    let mut node = Node::default().load();
    let mut packet = Inner::outbound().udp();
    packet[12..14].copy_from_slice(&ethertype);
    let out = node.run(OverlayTx, &packet);
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
    assert_eq!(node.counted(OverlayTx), [(Reason::NotIpv4, 1)]);
}

#[rstest]
#[case::version_6(0x65)]
#[case::header_too_short(0x44)]
fn a_broken_ip_header_passes_untouched(#[case] version_ihl: u8) {
    let mut node = Node::default().load();
    let mut packet = Inner::outbound().udp();
    packet[14] = version_ihl;
    let out = node.run(OverlayTx, &packet);
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
}

/// Cut off at each length that a test run accepts: nothing is read or sent that is not there. (Kernel 6.18
/// wants a whole IPv4 header where the ethertype announces one, so shorter packets cannot be made.)
#[test]
fn cut_off_at_every_length() {
    let mut node = Node::default().load();
    let whole = Inner::outbound().udp();
    for len in 34..whole.len() {
        let out = node.run(OverlayTx, &whole[..len]);
        assert_eq!(out.action, REDIRECT, "{len} bytes");
        assert_eq!(out.packet.len(), len + 50);
        assert_eq!(out.packet[64..], whole[14..len]);
    }
}

#[test]
fn inner_options_and_fragments_are_encapsulated_like_the_rest() {
    let mut node = Node::default().load();
    let mut fragment = Inner::outbound().udp();
    fragment[20..22].copy_from_slice(&[0x20, 0xb9]);
    assert_eq!(node.run(OverlayTx, &fragment).action, REDIRECT);
    let mut options = Inner::outbound().udp();
    options[14] = 0x46;
    assert_eq!(node.run(OverlayTx, &options).action, REDIRECT);
}
