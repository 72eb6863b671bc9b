//! The backend udp, packet by packet: its programs against packets that a library built.

#![cfg(test)]

use etherparse::{Ipv4Header, PacketBuilder};
use flannel_common::Ipv4;
use flannel_common::program::Program::{OverlayCatch, OverlayTx, PodTx, UplinkRx};
use flannel_common::reason::Reason;
use flannel_tests::packet::{Inner, Node, REDIRECT, Run, SHOT, UNSPEC, forwarded, patched};
use rstest::rstest;

const INNER: usize = 14 + 28;
const ETH: usize = 14;

/// A datagram of the peer's, whose payload is the packet of `frame`.
fn datagram(frame: &[u8]) -> Vec<u8> {
    from(Node::PEER_IP, frame)
}

fn from(peer: Ipv4, frame: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 9, 9], [0; 6])
        .ipv4(peer, Node::default().uplink_ip, 64)
        .udp(8285, 8285);
    let mut packet = Vec::new();
    builder.write(&mut packet, &frame[ETH..]).unwrap();
    packet
}

/// One that the stack sends to the far end.
fn outbound(ttl: u8) -> Inner {
    Inner {
        ttl,
        ..Inner::outbound()
    }
}

fn inbound() -> Inner {
    Inner::inbound()
}

/// The last has less behind the inner header than a TCP header.
#[rstest]
#[case::udp(inbound().udp(), Reason::DecapDirect)]
#[case::tcp(inbound().tcp(), Reason::DecapGro)]
#[case::short(Inner { payload: 0, ..inbound() }.udp(), Reason::DecapDirect)]
fn decapsulates_and_is_a_hop(#[case] inner: Vec<u8>, #[case] reason: Reason) {
    let mut node = Node::udp().load();

    let out = node.run(UplinkRx, &datagram(&inner));

    assert_eq!(out.action, REDIRECT);
    assert_eq!(out.packet[..6], Node::default().vtep_mac);
    assert_eq!(out.packet[ETH..], forwarded(inner)[ETH..]);
    assert_eq!(node.counted(UplinkRx), [(reason, 1)]);
}

#[rstest]
#[case::tcp(outbound(63).tcp())]
#[case::udp(outbound(63).udp())]
fn encapsulates_and_is_a_hop(#[case] inner: Vec<u8>) {
    let mut node = Node::udp().load();
    // The near end has the pair do what a device would have.
    assert_eq!(node.run(OverlayTx, &inner).action, UNSPEC);

    let out = node.run(OverlayCatch, &inner);

    assert_eq!(out.action, REDIRECT);
    let (ip, rest) = Ipv4Header::from_slice(&out.packet[ETH..]).unwrap();
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    assert_eq!(ip.source, Node::default().uplink_ip);
    assert_eq!(ip.destination, Node::PEER_IP);
    assert_eq!(usize::from(ip.total_len), 28 + inner.len() - ETH);
    let port = 8285u16.to_be_bytes();
    assert_eq!(rest[..4], [port, port].concat());
    assert_eq!(out.packet[INNER..], forwarded(inner)[ETH..]);
    assert_eq!(node.counted(OverlayCatch), [(Reason::Encap, 1)]);
}

/// What a process reads here and writes there has no mark at either end.
#[test]
fn a_mark_goes_along_with_neither() {
    let mut node = Node::udp().load();
    for (program, packet) in [
        (OverlayCatch, outbound(63).udp()),
        (UplinkRx, datagram(&inbound().udp())),
        (UplinkRx, datagram(&inbound().tcp())),
    ] {
        let run = Run {
            packet: &packet,
            mark: 9,
            ..Run::default()
        };
        let out = node.run_with(program, &run);
        assert_eq!((out.action, out.mark), (REDIRECT, 0), "{program:?}");
    }
}

/// flannel's proxy ends it and tells nobody.
#[test]
fn the_last_hop_may_be_in_the_tunnel() {
    let mut node = Node::udp().load();
    let last = Inner {
        ttl: 1,
        ..inbound()
    };
    assert_eq!(node.run(UplinkRx, &datagram(&last.udp())).action, SHOT);
    assert_eq!(node.counted(UplinkRx), [(Reason::TtlExpired, 1)]);
    assert_eq!(node.run(OverlayCatch, &outbound(1).udp()).action, SHOT);
    assert_eq!(node.counted(OverlayCatch), [(Reason::TtlExpired, 1)]);
}

/// The outer IPv4 header's, from there on.
const TOTAL_LEN: usize = 2;
const FRAGMENT: usize = 6;

#[rstest]
#[case::as_it_came(from(Node::PEER_IP, &inbound().udp()), REDIRECT, Reason::DecapDirect)]
#[case::of_nobody(from([192, 168, 0, 66], &inbound().udp()), SHOT, Reason::UnknownVtep)]
#[case::in_our_name(datagram(&Inner { src: [10, 244, 1, 9], ..inbound() }.udp()), SHOT, Reason::SpoofedSource)]
#[case::a_fragment(patched(datagram(&inbound().udp()), ETH + FRAGMENT, &[0x20, 0]), UNSPEC, Reason::OuterFragment)]
#[case::cut_off(datagram(&inbound().udp())[..80].to_vec(), UNSPEC, Reason::Truncated)]
#[case::another_length(patched(datagram(&inbound().udp()), ETH + TOTAL_LEN, &[0, 70]), UNSPEC, Reason::LengthMismatch)]
#[case::no_ipv4(patched(datagram(&inbound().udp()), INNER, &[0x65]), UNSPEC, Reason::NotIpv4)]
#[case::longer_inside(patched(datagram(&inbound().udp()), INNER + TOTAL_LEN, &[0, 90]), UNSPEC, Reason::LengthMismatch)]
fn what_comes_is_looked_at(#[case] packet: Vec<u8>, #[case] action: i32, #[case] reason: Reason) {
    let mut node = Node::udp().load();
    assert_eq!(node.run(UplinkRx, &packet).action, action);
    assert_eq!(node.counted(UplinkRx), [(reason, 1)]);
}

/// The kernel has merged some: it cuts them up for the agent's socket.
#[test]
fn several_in_one_are_not_taken() {
    let mut node = Node::udp().load();
    let packet = datagram(&inbound().udp());
    let run = Run {
        packet: &packet,
        gso_size: 30,
        ..Run::default()
    };
    assert_eq!(node.run_with(UplinkRx, &run).action, UNSPEC);
    assert_eq!(node.counted(UplinkRx), [(Reason::UdpGso, 1)]);
}

#[test]
fn a_pod_makes_no_tunnel_packet() {
    let mut node = Node::udp().load();
    let inner = Inner {
        dst: Node::PEER_IP,
        ..Inner::from_pod()
    };
    let packet = patched(inner.udp(), 36, &8285u16.to_be_bytes());
    assert_eq!(node.run(PodTx, &packet).action, SHOT);
    assert_eq!(node.counted(PodTx), [(Reason::PodTunnel, 1)]);
}

/// flannel's proxy answers to that: here the agent, whose socket is behind the program.
#[test]
fn what_nobody_leases_is_the_agent_s_to_answer() {
    let mut node = Node::udp().load();
    let inner = Inner {
        dst: [10, 244, 9, 9],
        ..outbound(63)
    };
    let out = node.run(OverlayCatch, &inner.udp());
    assert_eq!((out.action, out.packet), (UNSPEC, inner.udp()));
    assert_eq!(node.counted(OverlayCatch), [(Reason::NoPeer, 1)]);
}
