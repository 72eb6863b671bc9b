//! Fragments, and UDP without a checksum, through the translation and back.

#![cfg(test)]

use std::net::{SocketAddr, SocketAddrV4, UdpSocket};

use flannel_tests::packet::outside::{IP, Plain, fragments};
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::raw;
use flannel_tests::sockopt::without_checksum;
use flannel_tests::stage::Stage;
use flannel_tests::udp;
use rstest::rstest;

/// More than two fragments of 400 bytes hold.
const PAYLOAD: usize = 1000;

/// There and back with `bytes`, each datagram different.
#[track_caller]
fn exchange(client: &UdpSocket, server: &UdpSocket, to: SocketAddrV4, bytes: usize) -> SocketAddr {
    let mut buffer = vec![0; 65_536];
    let question: Vec<u8> = (0..bytes).map(|i| (i / 3).to_le_bytes()[0]).collect();
    client.send_to(&question, to).unwrap();
    let (len, seen) = uninterrupted(|| server.recv_from(&mut buffer)).expect("the question");
    assert!(buffer[..len] == question, "{bytes} bytes were changed");
    let answer: Vec<u8> = question.iter().rev().copied().collect();
    server.send_to(&answer, seen).unwrap();
    let len = uninterrupted(|| client.recv(&mut buffer)).expect("the answer");
    assert!(buffer[..len] == answer, "{bytes} bytes were changed");
    seen
}

#[rstest]
fn udp_of_every_size_with_and_without_checksum(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(true, false)] checksum: bool,
) {
    let stage = Stage::on(kind);
    let server = udp::Server::on(&stage.outside);
    let to = stage.outside.at(server.port());
    let (client, server) = (
        udp::Server::on(&stage.pod).into_socket(),
        server.into_socket(),
    );
    if !checksum {
        without_checksum(&client);
        without_checksum(&server);
    }
    for bytes in [0, 1, 1400, 1473, 3000, 9000, 65_507] {
        assert_eq!(exchange(&client, &server, to, bytes).ip(), stage.address());
    }
}

#[rstest]
fn pings_of_every_size(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = Stage::on(kind);
    let server = stage.outside.address();
    for bytes in [0, 1400, 4000, 30_000] {
        let text = stage.pod.exec(&format!(
            "ping -n -l 3 -i 15 -c 3 -W 15 -s {bytes} {server}"
        ));
        assert!(text.contains(" 3 received"), "{text}");
    }
}

/// Three fragments of one datagram from `src` to `dst`, without Ethernet headers, the `first` of them first.
fn pieces(src: SocketAddrV4, dst: SocketAddrV4, first: usize) -> Vec<Vec<u8>> {
    let packet = Plain {
        src: src.ip().octets(),
        dst: dst.ip().octets(),
        sport: src.port(),
        dport: dst.port(),
        payload: PAYLOAD,
        ..Plain::default()
    };
    let mut pieces: Vec<Vec<u8>> = fragments(&packet.udp(), 400)
        .iter()
        .map(|frame| frame[IP..].to_vec())
        .collect();
    for piece in &mut pieces {
        // A datagram of its own: what was said of another's identification does not help. The kernel fills in
        // the checksum.
        piece[5] = first.to_le_bytes()[0];
    }
    pieces.rotate_left(first % 3);
    pieces
}

#[rstest]
fn a_pods_fragments_leave_in_any_order(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = Stage::on(kind);
    let server = udp::Server::on(&stage.outside);
    let to = stage.outside.at(server.port());
    let from = SocketAddrV4::new(stage.pod.address(), 50_123);
    let server = server.into_socket();
    let mut buffer = [0; 2000];
    for first in 0..3 {
        raw::send(&stage.pod, &pieces(from, to, first));
        let (len, seen) = uninterrupted(|| server.recv_from(&mut buffer)).expect("the datagram");
        assert_eq!((len, seen.ip()), (PAYLOAD, stage.address().into()));
    }
}

/// Whatever the order in which the pieces of an answer arrive, close together: the pod gets it.
#[rstest]
fn fragments_that_arrive_before_their_first_one_find_the_pod(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let stage = Stage::on(kind);
    let (client, server, seen) = stage.greeting();
    let to = stage.outside.at(server.local_addr().unwrap().port());
    let mut buffer = [0; 2000];
    for rotate in 0..3 {
        let mut pieces = pieces(to, seen, 1000);
        pieces.rotate_left(rotate);
        stage
            .outside
            .together(|| raw::send(&stage.outside, &pieces));
        let len = uninterrupted(|| client.recv(&mut buffer)).expect("the answer");
        assert_eq!(len, PAYLOAD);
    }
    // And those whose first never comes keep nobody busy.
    let pieces = pieces(to, seen, 4);
    let followers = pieces.into_iter().filter(|p| p[6..8] != [0x20, 0]);
    raw::send(&stage.outside, &followers.collect::<Vec<_>>());
    stage.pod.ping(stage.outside.address()).succeeds();
}
