//! What only the stack can carry, beside flows that are fast: it arrives whole.

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4};

use flannel_common::program::Program::PodTx;
use flannel_common::reason::Reason;
use flannel_tests::bpftool::count;
use flannel_tests::fast_path::{fast, pair_of, sent, talk_tcp, to, was_fast};
use flannel_tests::lab::Options;
use flannel_tests::pair::{Kind, Pair, Way};
use flannel_tests::prelude::*;
use flannel_tests::raw::RawIp;
use flannel_tests::{sockopt, tcp, udp};
use rstest::rstest;

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

fn udp_backend() -> Network {
    Network::udp("/coreos.com/network", "10.244.0.0/16")
}

fn on(kind: Kind, net: Network, wire: Wire) -> Pair<AnyDaemon> {
    let options = Options {
        wire,
        ..Options::default()
    };
    pair_of(kind, net, options, &[])
}

/// A flow that is fast before is fast afterwards.
#[track_caller]
fn others_are_fast(pair: &Pair<AnyDaemon>) {
    let before = fast(&pair.one);
    let mut talk = talk_tcp(&pair.pod1, &pair.pod2);
    talk.rounds(50);
    talk.close();
    was_fast(&pair.one, before, 20);
}

/// Datagrams that are sent as one and cut up on the way.
#[rstest]
fn udp_gso_arrives_datagram_by_datagram(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(vxlan(), udp_backend())] net: Network,
    #[values(Wire::Whole, Wire::Segmented)] wire: Wire,
) {
    const SIZE: usize = 1000;
    const PARTS: usize = 40;
    let pair = on(kind, net, wire);
    let server = udp::Server::on(&pair.pod2);
    let client = udp::Server::on(&pair.pod1).into_socket();
    client.connect(to(&pair.pod2, server.port())).unwrap();
    let server = server.into_socket();
    let mut got = [0; 2000];
    let parts = |n: usize| vec![u8::try_from(n).unwrap(); SIZE];
    let mut receive = |count: usize| {
        for n in 0..count {
            let len = uninterrupted(|| server.recv(&mut got)).unwrap();
            assert_eq!(got[..len], parts(n), "datagram {n}");
        }
    };
    // The flow itself is fast, as long as its datagrams come one by one.
    for _ in 0..20 {
        client.send(&parts(0)).unwrap();
        receive(1);
    }
    let fast = pair.one.agent().map(sent);
    assert!(fast.is_none_or(|n| n > 10), "{fast:?}");

    sockopt::segmented(&client, SIZE.try_into().unwrap());
    let all: Vec<u8> = (0..PARTS).flat_map(parts).collect();
    client.send(&all).unwrap();
    receive(PARTS);
    if let Some(agent) = pair.one.agent() {
        assert_eq!(Some(sent(agent)), fast);
        assert_eq!(count(agent, PodTx, Reason::UdpGso), 1);
    }
}

/// No port that the programs could read. The kernel here may have no SCTP of its own, so the packets are made by hand.
#[rstest]
fn sctp_arrives(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(vxlan(), udp_backend())] net: Network,
) {
    const SCTP: u8 = 132;
    let pair = on(kind, net, Wire::Whole);
    let [client, server] = [&pair.pod1, &pair.pod2].map(|pod| RawIp::open(pod, SCTP));
    let unread = |daemon: &AnyDaemon| {
        let agent = daemon.agent()?;
        Some(count(agent, PodTx, Reason::OtherProtocol))
    };
    let before = [&pair.one, &pair.two].map(unread);
    let packet: Vec<u8> = (0..1200_u32).map(|n| n.to_le_bytes()[0]).collect();
    for _ in 0..20 {
        client.send(&packet, pair.pod2.address());
        assert_eq!(server.receive(), packet);
        server.send(&packet, pair.pod1.address());
        assert_eq!(client.receive(), packet);
    }
    let after = [&pair.one, &pair.two].map(unread);
    assert_eq!(after, before.map(|packets| packets.map(|n| n + 20)));
    assert!(fast(&pair.one).is_none_or(|packets| packets == (0, 0)));
    others_are_fast(&pair);
}

/// A pod's own tunnel: its single packets are UDP like any other, what GSO has yet to cut up is for the stack.
#[rstest]
fn a_nested_tunnel_arrives(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(vxlan(), udp_backend())] net: Network,
    #[values(Wire::Whole, Wire::Segmented)] wire: Wire,
) {
    let pair = on(kind, net, wire);
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
    if let Some(agent) = pair.one.agent() {
        let cut_later = count(agent, PodTx, Reason::UdpGso);
        assert!(cut_later > 10, "{cut_later} by the stack");
        let fast = sent(agent);
        assert!(fast > 10, "{fast} small ones past it");
    }
    others_are_fast(&pair);
}
