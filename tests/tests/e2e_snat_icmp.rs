//! What ICMP says arrives at whom it concerns: answers, and errors about a translated packet, both ways.

#![cfg(test)]

use std::io::ErrorKind;
use std::net::Ipv4Addr;

use flannel_common::reason::Reason;
use flannel_tests::netns::Netns;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::sockopt::whole_only;
use flannel_tests::stage::{Stage, counted};
use flannel_tests::{tcp, traceroute, udp};
use rstest::rstest;

/// Nobody listens there.
const CLOSED: u16 = 9;

#[rstest]
fn pods_ping_at_the_same_time_and_with_the_same_id(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let stage = Stage::on(kind);
    let other = stage.another_pod("other");
    let server = stage.outside.address();
    let patience = SOON.as_secs().to_string();
    let ping = |host: &Netns| {
        let mut command = host.command("ping");
        // All at once: behind the last, ping waits one interval and no longer.
        command.args(["-n", "-l", "20", "-c", "20", "-e", "4242"]);
        command.args(["-i", &patience, "-W", &patience]);
        command.arg(server.to_string());
        command.output().unwrap()
    };
    std::thread::scope(|scope| {
        let hosts = [stage.pod.netns(), other.netns(), stage.node.netns()];
        let running = hosts.map(|host| scope.spawn(move || ping(host)));
        for done in running {
            let output = done.join().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains(" 20 received, 0% packet loss"), "{text}");
            assert!(!text.contains("DUP"), "{text}");
        }
    });
}

#[rstest]
fn traceroute_shows_every_hop(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = Stage::on(kind);
    let hops = traceroute::hops(&stage.pod, stage.outside.address());
    let expected = [
        stage.node.subnet().address(1),
        Ipv4Addr::new(172, 30, 0, 254),
        stage.outside.address(),
    ];
    assert_eq!(hops, expected.map(Some));
    if let Some(agent) = stage.node.agent() {
        assert!(counted(agent, Reason::SnatError) >= 2);
    }
}

#[rstest]
fn a_pod_learns_the_mtu_of_a_narrow_leg(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = Stage::on(kind);
    stage.outside.narrow(1300);
    let server = stage.outside.address();
    let report = stage.pod.ping(server).count(1).whole(1400).told();
    assert_eq!(
        (report.received, report.too_big),
        (0, Some(1300)),
        "{}",
        report.text
    );
    stage.pod.ping(server).whole(1300).succeeds();
    // TCP as well: the server offers segments that do not fit, and nothing is lost for long.
    let other = stage.another_pod("other");
    let listener = tcp::Server::on(&stage.outside);
    let seen = listener.exchange(&other, stage.outside.at(listener.port()), 1 << 20);
    assert_eq!(seen.client.ip(), stage.address());
    let route = other.exec(&format!("ip route get {server}"));
    assert!(route.contains("mtu 1300"), "{route}");
    // And UDP, whose sender is told.
    let socket = udp::Server::on(&other).into_socket();
    whole_only(&socket);
    socket.connect((server, CLOSED)).unwrap();
    let error = socket.send(&[0; 1400]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE), "{error}");
}

/// The server's datagrams fit the wire and not the pod's link: the node says so, about a packet it has translated already.
#[rstest]
fn the_server_learns_the_mtu_of_the_pods_link(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = Stage::on(kind);
    let (client, server, seen) = stage.greeting();
    assert_eq!(*seen.ip(), stage.address());
    whole_only(&server);
    eventually("the server is told", SOON, || {
        let sent = server.send_to(&[0; 1460], seen);
        sent.is_err_and(|e| e.raw_os_error() == Some(libc::EMSGSIZE))
    });
    if let Some(agent) = stage.node.agent() {
        assert!(counted(agent, Reason::SnatError) > 0);
    }
    let route = stage
        .outside
        .exec(&format!("ip route get {}", stage.address()));
    assert!(route.contains("mtu 1450"), "{route}");
    server.send_to(&[7; 1400], seen).unwrap();
    assert_eq!(uninterrupted(|| client.recv(&mut [0; 2000])).unwrap(), 1400);
}

#[rstest]
fn a_closed_port_is_told_to_the_pod(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = Stage::on(kind);
    let socket = udp::Server::on(&stage.pod).into_socket();
    socket.connect(stage.outside.at(CLOSED)).unwrap();
    socket.send(b"anybody?").unwrap();
    let error = uninterrupted(|| socket.recv(&mut [0; 16])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let refused = tcp::connect(&stage.pod, stage.outside.at(CLOSED)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
}

/// The pod's own error leaves as the node's, and what it carries as it came.
#[rstest]
fn a_port_the_pod_has_closed_is_told_to_the_server(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let stage = Stage::on(kind);
    let (client, server, seen) = stage.greeting();
    drop(client);
    server.connect(seen).unwrap();
    server.send(b"still there?").unwrap();
    let error = uninterrupted(|| server.recv(&mut [0; 16])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
}

/// The pod speaks to the outside under its own address here, and so does its error.
#[rstest]
fn an_error_about_a_connection_that_came_in_keeps_its_source(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let stage = Stage::on(kind);
    let subnet = stage.node.subnet().to_string();
    stage.outside.routes_to(&subnet, &stage.node);
    for port in [0, CLOSED] {
        stage.sniffer.allow(stage.pod.address(), port);
    }
    let socket = udp::Server::on(&stage.outside).into_socket();
    socket.connect((stage.pod.address(), CLOSED)).unwrap();
    socket.send(b"anybody?").unwrap();
    let error = uninterrupted(|| socket.recv(&mut [0; 16])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
}
