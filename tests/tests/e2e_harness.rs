//! The harness itself, on two nodes with real flannel's dataplane: what fails here is not the agent's fault.

use flannel_tests::lab::Options;
use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::{handshake, tcp, traceroute, udp};
use std::net::SocketAddrV4;

#[test]
fn pods_of_two_kernel_nodes_talk() {
    let pair = Pair::new(Mix::Kernel);
    let Pair { pod1, pod2, .. } = &pair;
    assert_eq!(pod1.ping(pod2.address()).succeeds().ttl, Some(62));
    udp::exchange(pod1, pod2, pod2.address(), 8192);
    let server = tcp::Server::on(pod2);
    let to = SocketAddrV4::new(pod2.address(), server.port());
    let transfer = server.exchange(pod1, to, 8 << 20);
    assert_eq!(transfer.client.ip(), pod1.address());
    assert_eq!(
        traceroute::hops(pod1, pod2.address()),
        [
            Some(pair.one.subnet().address(1)),
            Some(pair.two.vtep()),
            Some(pod2.address())
        ]
    );
}

#[test]
fn segmented_wires_carry_no_packet_above_the_mtu() {
    let options = Options {
        wire: Wire::Segmented,
        ..Options::default()
    };
    let pair = Pair::with(Mix::Kernel, options);
    let capture = Capture::start(pair.one.node(), Node::UPLINK, "udp port 8472");
    let server = tcp::Server::on(&pair.pod2);
    let to = SocketAddrV4::new(pair.pod2.address(), server.port());
    server.exchange(&pair.pod1, to, 1 << 20);
    let outside = capture
        .finish()
        .iter()
        .filter(|p| source_is(p, pair.one.node().address()))
        .map(Vec::len)
        .max();
    assert_eq!(outside, Some(1514));
}

fn source_is(frame: &[u8], address: std::net::Ipv4Addr) -> bool {
    frame.get(26..30) == Some(&address.octets()[..])
}

/// The client sends it again after a second, and has its connection: by that alone nobody would notice.
#[test]
fn a_handshake_that_lost_its_first_segment_is_told() {
    let lab = Lab::new();
    let (one, two) = (lab.node("one"), lab.node("two"));
    handshake::loses_nothing(&one, &two, two.address());
    for (host, which) in [(&one, "--syn"), (&two, "--tcp-flags SYN,ACK SYN,ACK")] {
        let rule = format!(
            "OUTPUT -p tcp {which} -m statistic --mode nth --every 1000 --packet 0 -j DROP"
        );
        host.exec(&format!("iptables -w -A {rule}"));
        let told = std::panic::catch_unwind(|| {
            handshake::loses_nothing(&one, &two, two.address());
        });
        assert!(told.is_err(), "{which}");
        host.exec(&format!("iptables -w -D {rule}"));
    }
    handshake::loses_nothing(&one, &two, two.address());
}

/// Told to end right behind the last packet, a capture has seen every one; in between tcpdump may not get a CPU.
#[test]
fn a_capture_has_seen_what_came_before_its_end() {
    const DATAGRAMS: usize = 300;
    let lab = Lab::new();
    let (one, two) = (lab.node("one"), lab.node("two"));
    let socket = udp::Server::on(&one).into_socket();
    socket.connect((two.address(), 9)).unwrap();
    one.ping(two.address()).succeeds();
    for _ in 0..5 {
        let capture = Capture::start(&one, Node::UPLINK, "udp dst port 9");
        let nothing = Capture::start(&one, Node::UPLINK, "udp dst port 10");
        for _ in 0..DATAGRAMS {
            // An ICMP error of an earlier one is an error of this one.
            while socket.send(&[7]).is_err() {}
        }
        assert_eq!(capture.finish().len(), DATAGRAMS);
        nothing.saw_nothing();
    }
}

#[test]
fn a_router_and_a_server_outside_are_reachable() {
    let lab = Lab::new();
    let near = lab.node("near");
    let far = lab.node_behind_router("far");
    let outside = lab.outside();
    near.ping(far.address()).succeeds();
    far.ping(outside.address()).succeeds();
}
