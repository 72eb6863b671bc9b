//! An uplink without link-layer header: a packet that is a tunnel packet only to who takes its first 14 bytes for an Ethernet header
//! goes on as it is.

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use etherparse::{IpNumber, Ipv4Header, PacketBuilder};
use flannel_common::header::{Eth, Ip, PROTO_IPIP};
use flannel_tests::bare::{TUN, address, pair};
use flannel_tests::network::Backend;
use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::raw::{RawIp, send};
use flannel_tests::ways::{ipip, vxlan};
use flannel_tests::with_daemon::AnyDaemon;
use rstest::rstest;

/// For experiments (RFC 3692): nobody's tunnel.
const OTHER: u8 = 253;
/// As the front of an address, 4.176, it is no odd one.
const LEN: usize = 1200;

fn udp_backend() -> Network {
    Network::udp("/coreos.com/network", "10.244.0.0/16")
}

fn udp_packet(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64);
    let mut packet = Vec::new();
    let builder = builder.udp(from.port(), to.port());
    builder.write(&mut packet, payload).expect("a datagram");
    packet
}

fn ip_packet(proto: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let len = payload.len().try_into().expect("a short packet");
    let header = Ipv4Header::new(len, 64, IpNumber(proto), from, to).expect("a header");
    let mut packet = Vec::new();
    header.write(&mut packet).expect("a header");
    packet.extend_from_slice(payload);
    packet
}

/// A datagram from pod to pod as the second node's daemon sends it to the first one's: [`LEN`] bytes.
fn tunnelled(pair: &Pair<AnyDaemon>, to: SocketAddrV4) -> Vec<u8> {
    let backend = pair.net.backend;
    let front = match backend {
        Backend::Ipip => 20,
        Backend::Udp => 28,
        _ => 28 + 8 + Eth::LEN,
    };
    let payload = vec![7; LEN - front - 28];
    let from = SocketAddrV4::new(pair.pod2.address(), to.port());
    let inner = udp_packet(from, to, &payload);
    let nodes = [2, 1].map(address);
    if backend == Backend::Ipip {
        return ip_packet(PROTO_IPIP, nodes[0].octets(), nodes[1].octets(), &inner);
    }
    let header = match backend {
        Backend::Udp => Vec::new(),
        _ => {
            let macs = [&pair.one, &pair.two].map(vtep_mac).concat();
            [&[8, 0, 0, 0, 0, 0, 1, 0], &macs[..], &[8, 0]].concat()
        }
    };
    let [from, to] = nodes.map(|node| SocketAddrV4::new(node, pair.net.port));
    udp_packet(from, to, &[header, inner].concat())
}

fn vtep_mac(daemon: &AnyDaemon) -> Vec<u8> {
    let shown = daemon.exec("ip -o link show dev flannel.1");
    let mut words = shown.split_whitespace().skip_while(|w| *w != "link/ether");
    let bytes = words.nth(1).expect("an address").split(':');
    bytes.map(|b| u8::from_str_radix(b, 16).unwrap()).collect()
}

/// What has `tunnelled` behind 14 bytes: the end of its own header, and its payload.
fn lookalike(tunnelled: &[u8]) -> Vec<u8> {
    let (addresses, payload) = tunnelled.split_at(Ip::LEN - Eth::LEN);
    let [a, b, dst @ ..] = addresses else {
        unreachable!("six bytes")
    };
    let dst = dst.try_into().expect("four bytes");
    ip_packet(OTHER, [10, 0, *a, *b], dst, payload)
}

#[rstest]
fn is_no_tunnel_packet(#[values(Mix::Ours, Mix::Flanneld)] mix: Mix) {
    goes_on_as_it_is(vxlan(), mix);
}

/// The kernel at hand has no ipip for flanneld.
#[rstest]
#[case::udp(udp_backend())]
#[case::ipip(ipip())]
fn nor_one_of_other_backends(#[case] net: Network) {
    goes_on_as_it_is(net, Mix::Ours);
}

#[track_caller]
fn goes_on_as_it_is(net: Network, mix: Mix) {
    let (pair, _link) = pair(net, mix, &[]);
    let socket = pair
        .pod1
        .netns()
        .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))
        .unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let to = SocketAddrV4::new(pair.pod1.address(), socket.local_addr().unwrap().port());
    let packet = tunnelled(&pair, to);
    assert_eq!(packet.len(), LEN);
    let lookalike = lookalike(&packet);

    let [one, two] = [pair.one.node(), pair.two.node()];
    let [src, dst] = [12, 16].map(|at| {
        let octets: [u8; 4] = lookalike[at..at + 4].try_into().unwrap();
        Ipv4Addr::from(octets)
    });
    one.exec(&format!("ip addr add {dst}/32 dev lo"));
    one.exec(&format!("ip route add {src}/32 dev {TUN}"));
    two.exec(&format!(
        "ip route add {dst}/32 via {} dev {TUN}",
        address(1)
    ));
    let listener = RawIp::open(one, OTHER);
    send(two, std::slice::from_ref(&lookalike));
    assert!(listener.receive() == lookalike[Ip::LEN..]);
    // And nothing but the 14 bytes makes the difference.
    send(two, &[packet]);
    let mut room = [0; LEN];
    let (len, from) = uninterrupted(|| socket.recv_from(&mut room)).expect("a datagram");
    assert_eq!(from.ip(), pair.pod2.address());
    assert!(len > 1000 && room[..len].iter().all(|byte| *byte == 7));
}
