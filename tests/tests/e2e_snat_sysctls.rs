//! For how long the outside may be silent, and still reach the pod: as the node's conntrack sysctls say, with flanneld and with us.

#![cfg(test)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Duration;

use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::snat_table::SnatTable;
use flannel_tests::stage::Stage;
use flannel_tests::tcp;
use rstest::rstest;

/// Ours looks every half minute, and sweeps every five seconds.
const LOOKS: Duration = Duration::from_secs(60);

/// The kernel's own for UDP that nobody answered, and a little.
const USUAL: Duration = Duration::from_secs(33);

/// Sets `nf_conntrack_<name>` in the node's namespace, while its daemon runs.
fn set(stage: &Stage<AnyDaemon>, name: &str, seconds: u32) {
    let key = format!("net.netfilter.nf_conntrack_{name}");
    stage.node.node().sysctl(&key, seconds);
}

/// Whether anybody on the node knows the flow from the pod's `port`.
fn is_known(stage: &Stage<AnyDaemon>, proto: (&str, u8), port: u16) -> bool {
    match stage.node.agent() {
        Some(agent) => SnatTable::of(agent)
            .flows()
            .iter()
            .any(|(key, _)| key.proto == proto.1 && key.src_port == port.to_be_bytes()),
        None => {
            let list = format!(
                "conntrack -L -p {} --orig-src {}",
                proto.0,
                stage.pod.address()
            );
            let list = stage.node.exec(&list);
            list.contains(&format!("sport={port} "))
        }
    }
}

#[rstest]
fn lowered_it_ends_streams_of_datagrams(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = Stage::on(kind);
    set(&stage, "udp_timeout_stream", 3);
    let (pod, server, seen) = stage.greeting();
    let port = pod.local_addr().unwrap().port();
    let to = stage.outside.at(server.local_addr().unwrap().port());
    server.connect(seen).unwrap();
    // For the two seconds after which it is a stream.
    for pause in [0, 2_100] {
        std::thread::sleep(Duration::from_millis(pause));
        server.send(b"answer").unwrap();
        uninterrupted(|| pod.recv(&mut [0; 16])).unwrap();
        pod.send_to(b"again", to).unwrap();
        uninterrupted(|| server.recv(&mut [0; 16])).unwrap();
    }
    eventually("the node forgets the flow", LOOKS, || {
        !is_known(&stage, ("udp", 17), port)
    });
    // The node has no such socket itself, and says so.
    server.send(b"late").unwrap();
    let refused = uninterrupted(|| server.recv(&mut [0; 16])).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[rstest]
fn raised_it_keeps_what_nobody_answers(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = Stage::on(kind);
    set(&stage, "udp_timeout", 900);
    if let Some(agent) = stage.node.agent() {
        let table = SnatTable::of(agent);
        eventually("the agent has looked", LOOKS, || table.times().udp == 900);
    }
    let (pod, server, seen) = stage.greeting();
    std::thread::sleep(USUAL);
    server.send_to(b"late", seen).unwrap();
    let mut late = [0; 16];
    assert_eq!(uninterrupted(|| pod.recv(&mut late)).unwrap(), 4);
    assert_eq!(&late[..4], b"late");
}

#[rstest]
fn lowered_it_ends_idle_connections(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = Stage::on(kind);
    set(&stage, "tcp_timeout_established", 3);
    let server = tcp::Server::on(&stage.outside);
    let mut client = tcp::connect(&stage.pod, stage.outside.at(server.port())).unwrap();
    let mut server = server.accept();
    client.write_all(b"hello").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    let port = client.local_addr().unwrap().port();
    eventually("the node forgets the connection", LOOKS, || {
        !is_known(&stage, ("tcp", 6), port)
    });
    if kind == Kind::Flanneld {
        // Conntrack finds what the pod says to that invalid, and nobody translates it.
        stage.sniffer.allow(stage.pod.address(), port);
    }
    // The node knows no such connection itself, and says so.
    server.write_all(b"late").unwrap();
    let reset = uninterrupted(|| server.read(&mut [0; 5])).unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
}

/// Nobody has loaded conntrack, or nobody has set anything: the kernel's own. An absurd value breaks nothing.
#[test]
fn what_is_absurd_is_bounded() {
    let stage = Stage::on(Kind::Ours);
    let table = SnatTable::of(stage.node.agent().unwrap());
    assert_eq!(table.times(), flannel_common::snat::Times::DEFAULT);
    set(&stage, "icmp_timeout", 0);
    set(&stage, "generic_timeout", 2_000_000);
    eventually("the agent has looked", LOOKS, || {
        let times = table.times();
        (times.icmp, times.generic) == (1, 2_000_000)
    });
    stage.pod.ping(stage.outside.address()).succeeds();
}

/// It goes on with what its agent last knew, and the next agent takes up what changed.
#[test]
fn without_an_agent_the_last_ones_count() {
    let mut stage = Stage::on(Kind::Ours);
    set(&stage, "udp_timeout", 700);
    let table = SnatTable::of(stage.node.agent().unwrap());
    eventually("the agent has looked", LOOKS, || table.times().udp == 700);
    stage.node.kill();
    set(&stage, "udp_timeout", 20);
    let (pod, server, seen) = stage.greeting();
    assert_eq!(table.times().udp, 700);
    server.send_to(b"answer", seen).unwrap();
    uninterrupted(|| pod.recv(&mut [0; 16])).unwrap();
    stage.node.restart();
    eventually("the next one has looked", LOOKS, || {
        SnatTable::of(stage.node.agent().unwrap()).times().udp == 20
    });
}

/// The fast path has a wish for that one, for itself: it is no wish of the node's for flows of source NAT.
#[test]
fn what_the_agent_sets_itself_is_not_followed() {
    let stage = Stage::on(Kind::Ours);
    let table = SnatTable::of(stage.node.agent().unwrap());
    let read = "cat /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_unacknowledged";
    assert_eq!(stage.node.node().exec(read).trim(), "432000");
    assert_eq!(table.times().tcp_unacknowledged, 300);
    set(&stage, "tcp_timeout_unacknowledged", 77);
    eventually("the agent has looked", LOOKS, || {
        table.times().tcp_unacknowledged == 77
    });
    assert_eq!(stage.node.node().exec(read).trim(), "432000");
}
