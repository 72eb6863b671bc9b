//! The backend ipip, packet by packet: its programs against packets that a library built.

#![cfg(test)]

use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header};
use flannel_common::Ipv4;
use flannel_common::program::Program::{
    OverlayRx, OverlayTx, PodRx, PodTx, SnatRoom, UplinkRx, UplinkTx,
};
use flannel_common::reason::Reason;
use flannel_common::source::CHECK_OFF;
use flannel_tests::packet::flows::{change_flow, is_fast_out, through_the_stack_out};
use flannel_tests::packet::{Inner, Node, REDIRECT, Run, SHOT, UNSPEC, patched};
use rstest::rstest;

const ETH: usize = 14;
const INNER: usize = ETH + 20;

/// The packet of `frame` in IPv4, from an address to this node's.
fn from(outer: Ipv4, frame: &[u8]) -> Vec<u8> {
    with_tos(outer, 0, frame)
}

fn with_tos(outer: Ipv4, tos: u8, frame: &[u8]) -> Vec<u8> {
    let inner = &frame[ETH..];
    let eth = Ethernet2Header {
        source: [2, 0, 0, 0, 9, 9],
        destination: [0; 6],
        ether_type: EtherType::IPV4,
    };
    let len = inner.len().try_into().unwrap();
    let to = Node::default().uplink_ip;
    let mut ip = Ipv4Header::new(len, 62, IpNumber::IPV4, outer, to).unwrap();
    ip.ecn = (tos & 3).try_into().unwrap();
    ip.dscp = (tos >> 2).try_into().unwrap();
    ip.header_checksum = ip.calc_header_checksum();
    [&eth.to_bytes()[..], &ip.to_bytes(), inner].concat()
}

fn of_peer(frame: &[u8]) -> Vec<u8> {
    from(Node::PEER_IP, frame)
}

fn inbound() -> Inner {
    Inner::inbound()
}

/// The last has less behind the inner header than a TCP header.
#[rstest]
#[case::udp(inbound().udp(), Reason::DecapDirect)]
#[case::tcp(inbound().tcp(), Reason::DecapGro)]
#[case::short(Inner { payload: 0, ..inbound() }.udp(), Reason::DecapDirect)]
fn decapsulates_to_the_byte(#[case] inner: Vec<u8>, #[case] reason: Reason) {
    let mut node = Node::ipip().load();

    let out = node.run(UplinkRx, &of_peer(&inner));

    assert_eq!(out.action, REDIRECT);
    assert_eq!(out.packet[..6], Node::default().vtep_mac);
    assert_eq!(out.packet[ETH..], inner[ETH..]);
    assert_eq!(node.counted(UplinkRx), [(reason, 1)]);
}

/// RFC 6040: inner, outer, result.
#[rstest]
#[case(0b00, 0b10, Some(0b00))]
#[case(0b10, 0b11, Some(0b11))]
#[case(0b01, 0b01, Some(0b01))]
#[case(0b00, 0b11, None)]
fn merges_ecn(#[case] inner: u8, #[case] outer: u8, #[case] want: Option<u8>) {
    const DSCP: u8 = 0b0110_1000;
    let mut node = Node::ipip().load();
    let of = |ecn: u8| Inner {
        tos: DSCP | ecn,
        ..inbound()
    };
    let packet = with_tos(Node::PEER_IP, outer, &of(inner).udp());
    let out = node.run(UplinkRx, &packet);
    match want {
        Some(ecn) => assert_eq!(out.packet[ETH..], of(ecn).udp()[ETH..]),
        None => assert_eq!(node.counted(UplinkRx), [(Reason::EcnCe, 1)]),
    }
}

const DF: u8 = 0x40;

/// As a kernel ipip device does it that flannel has made: time to live and "don't fragment" of the inner packet, and of its TOS byte
/// the congestion mark.
#[rstest]
#[case::tcp(Inner::outbound().tcp(), 0, 0)]
#[case::may_be_fragmented(Inner::outbound().udp(), 0, 0)]
#[case::its_last_hop(Inner { ttl: 1, ..Inner::outbound() }.udp(), DF, 0)]
#[case::marked(Inner { tos: 0b0110_1001, ..Inner::outbound() }.udp(), DF, 1)]
fn encapsulates_as_the_kernel(#[case] frame: Vec<u8>, #[case] df: u8, #[case] tos: u8) {
    let frame = patched(frame, ETH + 6, &[df, 0]);
    let mut node = Node::ipip().load();

    let out = node.run(OverlayTx, &frame);

    assert_eq!(out.action, REDIRECT);
    let (ip, rest) = Ipv4Header::from_slice(&out.packet[ETH..]).unwrap();
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    assert_eq!(ip.source, Node::default().uplink_ip);
    assert_eq!(
        (ip.destination, ip.protocol),
        (Node::PEER_IP, IpNumber::IPV4)
    );
    assert_eq!(
        (ip.time_to_live, ip.dont_fragment),
        (frame[ETH + 8], df != 0)
    );
    assert_eq!(ip.dscp.value() << 2 | ip.ecn.value(), tos);
    assert_eq!(usize::from(ip.total_len), 20 + frame.len() - ETH);
    assert_eq!(*rest, frame[ETH..]);
    assert_eq!(node.counted(OverlayTx), [(Reason::Encap, 1)]);
}

/// The outer IPv4 header's, from there on.
const IHL: usize = 0;
const TOTAL_LEN: usize = 2;
const FRAGMENT: usize = 6;
const PROTOCOL: usize = 9;
const DESTINATION: usize = 16;

fn outer(at: usize, bytes: &[u8]) -> Vec<u8> {
    patched(of_peer(&inbound().udp()), ETH + at, bytes)
}

#[rstest]
#[case::as_it_came(of_peer(&inbound().udp()), REDIRECT, Reason::DecapDirect)]
#[case::in_our_name(of_peer(&Inner { src: [10, 244, 1, 9], ..inbound() }.udp()), SHOT, Reason::SpoofedSource)]
#[case::a_fragment(outer(FRAGMENT, &[0x20, 0]), UNSPEC, Reason::OuterFragment)]
#[case::with_options(outer(IHL, &[0x46]), UNSPEC, Reason::OuterOptions)]
#[case::cut_off(of_peer(&inbound().udp())[..80].to_vec(), UNSPEC, Reason::Truncated)]
#[case::another_length(outer(TOTAL_LEN, &[0, 70]), UNSPEC, Reason::LengthMismatch)]
#[case::no_ipv4(patched(of_peer(&inbound().udp()), INNER, &[0x65]), UNSPEC, Reason::NotIpv4)]
#[case::longer_inside(patched(of_peer(&inbound().udp()), INNER + TOTAL_LEN, &[0, 90]), UNSPEC, Reason::LengthMismatch)]
fn what_comes_is_looked_at(#[case] packet: Vec<u8>, #[case] action: i32, #[case] reason: Reason) {
    let mut node = Node::ipip().load();
    assert_eq!(node.run(UplinkRx, &packet).action, action);
    assert_eq!(node.counted(UplinkRx), [(reason, 1)]);
}

const STRANGER: Ipv4 = [192, 168, 0, 66];

/// Packets of tunnels that are not ours, of the operator's or of another network's. Not even counted.
#[rstest]
#[case::of_a_stranger(from(STRANGER, &inbound().udp()))]
#[case::of_a_stranger_cut_in_two(patched(from(STRANGER, &inbound().udp()), ETH + FRAGMENT, &[0x20, 0]))]
#[case::between_the_same_nodes(of_peer(&Inner { src: [10, 9, 0, 2], dst: [10, 9, 0, 1], ..inbound() }.udp()))]
#[case::of_another_protocol(outer(PROTOCOL, &[41]))]
#[case::to_another_address(outer(DESTINATION, &[192, 168, 0, 9]))]
fn who_else_has_the_protocol_goes_on(#[case] packet: Vec<u8>) {
    let mut node = Node::ipip().load();
    let out = node.run(UplinkRx, &packet);
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
    assert_eq!(node.counted(UplinkRx), []);
    assert!(node.senders().is_empty());
}

/// What a peer's pods send is the network's wherever it goes: to this node, or through it.
#[rstest]
#[case::from_its_pods(Inner { dst: [198, 51, 100, 7], ..inbound() })]
#[case::forwarded_by_it(Inner { src: [198, 51, 100, 7], ..inbound() })]
fn what_is_a_peer_s_is_taken(#[case] inner: Inner) {
    let mut node = Node::ipip().load();
    assert_eq!(node.run(UplinkRx, &of_peer(&inner.udp())).action, REDIRECT);
    assert_eq!(node.counted(UplinkRx), [(Reason::DecapDirect, 1)]);
}

/// As flannel takes it.
#[test]
fn without_a_source_check_anybody_reaches_pods() {
    let mut node = Node {
        source_check: CHECK_OFF,
        ..Node::ipip()
    }
    .load();
    let packet = from(STRANGER, &inbound().udp());
    assert_eq!(node.run(UplinkRx, &packet).action, REDIRECT);
}

fn to_a_node(dst: Ipv4) -> Vec<u8> {
    let inner = Inner {
        dst,
        ..Inner::from_pod()
    };
    patched(inner.udp(), ETH + PROTOCOL, &[4])
}

#[rstest]
#[case::for_a_peer(to_a_node(Node::PEER_IP), SHOT)]
#[case::for_us(to_a_node(Node::default().uplink_ip), SHOT)]
#[case::for_somebody_else(to_a_node(STRANGER), UNSPEC)]
fn a_pod_makes_no_tunnel_packet(#[case] packet: Vec<u8>, #[case] action: i32) {
    let mut node = Node::ipip().load();
    assert_eq!(node.run(PodTx, &packet).action, action);
    let dropped = node.count(PodTx, Reason::PodTunnel).packets;
    assert_eq!(dropped, u64::from(action == SHOT));
}

/// Without the fast path nobody looks at the pod's port, and source NAT would put the node's name on it.
#[rstest]
#[case::for_a_peer(to_a_node(Node::PEER_IP), 1)]
#[case::for_us(to_a_node(Node::default().uplink_ip), 1)]
#[case::for_somebody_else(to_a_node(STRANGER), 0)]
fn nor_does_source_nat_make_it_one(#[case] packet: Vec<u8>, #[case] dropped: u64) {
    let mut node = Node::ipip().load_snat();
    let out = node.run(UplinkTx, &packet);
    assert_eq!(out.action == SHOT, dropped == 1);
    assert_eq!(node.count(SnatRoom, Reason::PodTunnel).packets, dropped);
}

/// All tunnel packets pass by the programs of source NAT on their way out.
#[test]
fn what_we_have_encapsulated_is_not_translated() {
    let mut node = Node::ipip().load_snat();
    let mut packet = of_peer(&inbound().udp());
    packet[26..30].copy_from_slice(&Node::default().uplink_ip);
    packet[30..34].copy_from_slice(&Node::PEER_IP);
    let out = node.run(UplinkTx, &packet);
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
    assert_eq!(node.counted(UplinkTx), []);
}

/// As of vxlan, `packet_fast_limits`: the kernel does not encapsulate a test run's GSO. The stack has not given it mark and class yet.
#[test]
fn what_is_refused_takes_the_stack_as_it_came() {
    let mut node = Node::ipip().load();
    node.prepare(&[PodTx, OverlayTx, UplinkRx, OverlayRx, PodRx]);
    through_the_stack_out(&mut node, Inner::tcp);
    let inner = inbound().tcp();
    assert_eq!(node.run(UplinkRx, &of_peer(&inner)).action, REDIRECT);
    assert_eq!(node.run(OverlayRx, &inner).action, UNSPEC);
    assert_eq!(node.run(PodRx, &Inner::to_pod().tcp()).action, UNSPEC);
    assert!(is_fast_out(&mut node));
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
