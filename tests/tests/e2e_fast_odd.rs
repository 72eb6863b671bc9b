//! What only the stack can carry, beside flows that are fast: it arrives whole.

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4};

use flannel_common::program::Program::PodTx;
use flannel_common::reason::Reason;
use flannel_tests::bpftool::count;
use flannel_tests::fast_path::{agents, received, sent, talk_tcp, to};
use flannel_tests::lab::Options;
use flannel_tests::pair::{Pair, Way};
use flannel_tests::prelude::*;
use flannel_tests::raw::RawIp;
use flannel_tests::{sockopt, tcp, udp};
use rstest::rstest;

fn on(wire: Wire) -> Pair<Agent> {
    let options = Options {
        wire,
        ..Options::default()
    };
    agents(options, &[])
}

/// A flow that is fast before is fast afterwards.
#[track_caller]
fn others_are_fast(pair: &Pair<Agent>) {
    let before = (sent(&pair.one), received(&pair.one));
    let mut talk = talk_tcp(&pair.pod1, &pair.pod2);
    talk.rounds(50);
    talk.close();
    let after = (sent(&pair.one), received(&pair.one));
    assert!(after.0 > before.0 + 20 && after.1 > before.1 + 20);
}

/// Datagrams that are sent as one and cut up on the way.
#[rstest]
fn udp_gso_arrives_datagram_by_datagram(#[values(Wire::Whole, Wire::Segmented)] wire: Wire) {
    const SIZE: usize = 1000;
    const PARTS: usize = 40;
    let pair = on(wire);
    let server = udp::Server::on(&pair.pod2);
    let client = udp::Server::on(&pair.pod1).into_socket();
    client.connect(to(&pair.pod2, server.port())).unwrap();
    let server = server.into_socket();
    let mut got = [0; 2000];
    let parts = |n: usize| vec![u8::try_from(n).unwrap(); SIZE];
    let mut receive = |count: usize| {
        for n in 0..count {
            let len = server.recv(&mut got).unwrap();
            assert_eq!(got[..len], parts(n), "datagram {n}");
        }
    };
    // The flow itself is fast, as long as its datagrams come one by one.
    for _ in 0..20 {
        client.send(&parts(0)).unwrap();
        receive(1);
    }
    let fast = sent(&pair.one);
    assert!(fast > 10, "{fast}");

    sockopt::segmented(&client, SIZE.try_into().unwrap());
    let all: Vec<u8> = (0..PARTS).flat_map(parts).collect();
    client.send(&all).unwrap();
    receive(PARTS);
    assert_eq!(sent(&pair.one), fast);
    assert_eq!(count(&pair.one, PodTx, Reason::UdpGso), 1);
}

/// No port that the programs could read. The kernel here may have no SCTP of its own, so the packets are made by hand.
#[test]
fn sctp_arrives() {
    const SCTP: u8 = 132;
    let pair = agents(Options::default(), &[]);
    let [client, server] = [&pair.pod1, &pair.pod2].map(|pod| RawIp::open(pod, SCTP));
    let unread = |agent| count(agent, PodTx, Reason::OtherProtocol);
    let before = [&pair.one, &pair.two].map(unread);
    let packet: Vec<u8> = (0..1200_u32).map(|n| n.to_le_bytes()[0]).collect();
    for _ in 0..20 {
        client.send(&packet, pair.pod2.address());
        assert_eq!(server.receive(), packet);
        server.send(&packet, pair.pod1.address());
        assert_eq!(client.receive(), packet);
    }
    let after = [&pair.one, &pair.two].map(unread);
    assert_eq!(after, before.map(|packets| packets + 20));
    assert_eq!((sent(&pair.one), received(&pair.one)), (0, 0));
    others_are_fast(&pair);
}

/// A pod's own tunnel: its single packets are UDP like any other, what GSO has yet to cut up is for the stack.
#[rstest]
fn a_nested_tunnel_arrives(#[values(Wire::Whole, Wire::Segmented)] wire: Wire) {
    let pair = on(wire);
    for (n, Way { client, server, .. }) in pair.both_ways().into_iter().enumerate() {
        client.ip_batch(&[
            format!(
                "link add nested type vxlan id 1 local {} remote {} dstport 4789 dev eth0",
                client.address(),
                server.address()
            ),
            format!("addr add 192.168.9.{}/24 dev nested", n + 1),
            "link set nested up".to_owned(),
        ]);
    }
    let inner = Ipv4Addr::new(192, 168, 9, 2);
    eventually("the inner tunnel answers", SOON, || {
        pair.pod1.ping(inner).count(1).lossless()
    });
    let listener = tcp::Server::on(&pair.pod2);
    let to = SocketAddrV4::new(inner, listener.port());
    listener.exchange(&pair.pod1, to, 4 << 20);
    let cut_later = count(&pair.one, PodTx, Reason::UdpGso);
    assert!(cut_later > 10, "{cut_later} by the stack");
    let fast = sent(&pair.one);
    assert!(fast > 10, "{fast} small ones past it");
    others_are_fast(&pair);
}
