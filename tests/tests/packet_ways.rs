//! The way of outer packets: the routing table's, as a test run asks it.

#![cfg(test)]

use flannel_common::Ipv4;
use flannel_common::globals::FAST_PATH_ALWAYS;
use flannel_common::program::Program::{self, OverlayTx, PodTx};
use flannel_common::reason::Reason;
use flannel_tests::netns::Netns;
use flannel_tests::packet::{Fixture, Inner, Node, REDIRECT, SHOT};
use flannel_tests::sweep;
use rstest::rstest;

/// Runs both programs that send to a peer in a namespace with these routes; each returns action and reasons.
fn with_routes(routes: &[&str], test: impl Fn(&mut Fixture, Program, &[u8]) + Send + Sync) {
    let netns = Netns::create(&sweep::unique_name());
    netns.run("sysctl -qw net.ipv4.ip_forward=1");
    netns.run("ip link add eth0 type veth peer name wire");
    netns.run("ip link add flannel.1 index 77 type veth peer name flgro.1");
    for device in ["eth0", "wire", "flannel.1", "flgro.1"] {
        netns.run(&format!("ip link set {device} up"));
    }
    netns.run("ip addr add 192.168.0.1/24 dev eth0");
    for route in routes {
        netns.run(&format!("ip route add {route}"));
    }
    netns.enter(|| {
        let node = Node {
            fast_path: FAST_PATH_ALWAYS,
            pair_index: 77,
            ..Node::default()
        };
        for (program, packet) in [
            (OverlayTx, Inner::outbound().udp()),
            (PodTx, Inner::from_pod().udp()),
        ] {
            let mut fixture = node.load();
            fixture.routed_peer(Node::PEER_SUBNET, 24, PEER);
            test(&mut fixture, program, &packet);
        }
    });
}

const PEER: Ipv4 = [203, 0, 113, 9];

#[rstest]
#[case::gateway("default via 192.168.0.254")]
#[case::neighbour("203.0.113.0/24 dev eth0")]
#[case::several("default nexthop via 192.168.0.254 nexthop via 192.168.0.253")]
#[case::six("0.0.0.0/0 via inet6 fe80::1 dev eth0")]
fn a_packet_with_a_way_is_sent(#[case] route: &str) {
    with_routes(&[route], |node, program, packet| {
        let out = node.run(program, packet);
        assert_eq!(
            out.action,
            REDIRECT,
            "{program:?} {:?}",
            node.counted(program)
        );
        assert_eq!(out.packet[30..34], PEER);
        assert_eq!(node.count(program, Reason::NoRoute).packets, 0);
    });
}

#[rstest]
#[case::none(&[])]
#[case::blackhole(&["default via 192.168.0.254", "blackhole 203.0.113.9"])]
#[case::unreachable(&["default via 192.168.0.254", "unreachable 203.0.113.0/24"])]
#[case::prohibit(&["default via 192.168.0.254", "prohibit 203.0.113.9"])]
#[case::in_a_circle(&["203.0.113.0/24 dev flannel.1"])]
#[case::to_this_node(&["local 203.0.113.9 dev lo"])]
fn a_packet_without_one_is_dropped_and_counted(#[case] routes: &[&str]) {
    with_routes(routes, |node, program, packet| {
        assert_eq!(node.run(program, packet).action, SHOT, "{program:?}");
        assert_eq!(node.count(program, Reason::NoRoute).packets, 1);
    });
}

/// Where the loopback device does not forward, programs get no answer: the redirect's own look-up decides.
#[test]
fn without_an_answer_the_kernel_decides() {
    with_routes(&["default via 192.168.0.254"], |node, program, packet| {
        // Of the namespace of the thread that opens it.
        std::fs::write("/proc/sys/net/ipv4/conf/lo/forwarding", "0").unwrap();
        assert_eq!(node.run(program, packet).action, REDIRECT, "{program:?}");
    });
}
