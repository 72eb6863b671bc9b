//! Flows end in time and not before: those that are over leave the table, the others stay.

#![cfg(test)]

use std::net::SocketAddrV4;

use flannel_common::snat::{KIND_PAIR, WAY_OUT};
use flannel_tests::metrics::sample;
use flannel_tests::mirror::{Client, Mirror};
use flannel_tests::prelude::*;
use flannel_tests::snat_table::SnatTable;
use flannel_tests::sockopt::reset_at_end;
use flannel_tests::stage::Stage;
use flannel_tests::talk;
use flannel_tests::tcp;

const PORT: u16 = 7000;
const TCP: u8 = 6;

/// Ports of the pod's flows in the table.
fn ports(table: &SnatTable, proto: u8) -> Vec<u16> {
    let flows = table.flows();
    let flows = flows.iter().filter(|(key, _)| key.proto == proto);
    let mut ports: Vec<_> = flows
        .map(|(key, _)| u16::from_be_bytes(key.src_port))
        .collect();
    ports.sort_unstable();
    ports
}

#[track_caller]
fn goes(table: &SnatTable, proto: u8, port: u16) {
    eventually(format!("the flow from port {port} is swept"), SOON, || {
        !ports(table, proto).contains(&port)
    });
}

fn metric(agent: &Agent, name: &str) -> f64 {
    sample(agent, name).unwrap_or_else(|| panic!("no {name}"))
}

/// Each is made as old as its time-out allows, which it survives; and then a little older.
#[test]
fn each_state_has_its_time() {
    let stage = Stage::new();
    let mut table = SnatTable::of(&stage.node);
    let server = tcp::Server::on(&stage.outside);
    let to = stage.outside.at(server.port());

    let closed = talk::Tcp::open(&server, &stage.pod, to);
    let closed_port = closed.port();
    closed.close();
    let reset = tcp::connect(&stage.pod, to).unwrap();
    let reset_port = reset.local_addr().unwrap().port();
    let _accepted = server.accept();
    reset_at_end(&reset);
    drop(reset);
    let mut alive = talk::Tcp::open(&server, &stage.pod, to);
    alive.rounds(3);
    // Nobody answers this one.
    stage
        .outside
        .exec("iptables-nft -I INPUT -p tcp --dport 81 -j DROP");
    let hopeless = stage.pod.netns().enter(|| {
        let to: std::net::SocketAddr = stage.outside.at(81).into();
        std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_millis(300))
    });
    assert!(hopeless.is_err());
    let hopeless_port = {
        let flows = table.flows();
        let (key, _) = flows
            .iter()
            .find(|(key, _)| key.dst_port == [0, 81])
            .unwrap();
        u16::from_be_bytes(key.src_port)
    };
    let mirror = Mirror::on(&stage.outside, PORT);
    let mut answered = Client::udp(&stage.pod, 0, stage.outside.at(mirror.port()));
    answered.ask(1);
    let answered_port = answered.port();
    // It has been in use for longer than two seconds.
    table.prolong(3, |key, own| own == answered_port && key.proto == 17);

    let swept = metric(&stage.node, "flannel_ebpf_snat_swept_flows_total");
    // (port, protocol, seconds it may be silent)
    let times = [
        (closed_port, TCP, 120),
        (hopeless_port, TCP, 120),
        (answered_port, 17, 120),
        (reset_port, TCP, 10),
    ];
    for (port, proto, seconds) in times {
        // Not all of it: the test itself takes time.
        let early = seconds * 2 / 3;
        table.age(early, |key, own| own == port && key.proto == proto);
        if seconds > 60 {
            assert!(
                ports(&table, proto).contains(&port),
                "{port} went too early"
            );
        }
    }
    // The agent sweeps every five seconds: this one shows that it has since.
    goes(&table, TCP, reset_port);
    let long = times.into_iter().filter(|(.., seconds)| *seconds > 60);
    for (port, proto, seconds) in long.clone() {
        assert!(
            ports(&table, proto).contains(&port),
            "{port} went too early"
        );
        table.age(seconds / 3 + 1, |key, own| {
            own == port && key.proto == proto
        });
    }
    for (port, proto, _) in long {
        goes(&table, proto, port);
    }
    // An hour of silence is nothing to a connection.
    let alive_port = alive.port();
    table.age(400_000, |key, own| own == alive_port && key.proto == TCP);
    eventually("the metrics tell", SOON, || {
        metric(&stage.node, "flannel_ebpf_snat_swept_flows_total") >= swept + 4.0
    });
    assert!(ports(&table, TCP).contains(&alive_port));
    alive.rounds(3);
    let left: Vec<_> = table
        .entries()
        .into_iter()
        // The agent's own connection to etcd is noted as well if its port is one of the pods'.
        .filter(|(key, entry)| key.proto == TCP && entry.kind == KIND_PAIR)
        .collect();
    assert_eq!(left.len(), 2, "both halves of one flow: {left:?}");
    assert!(metric(&stage.node, "flannel_ebpf_snat_entries") >= 2.0);
}

/// What came in is noted, and the note goes when it is over.
#[test]
fn notes_of_what_came_in_go_as_well() {
    let stage = Stage::new();
    let subnet = stage.node.subnet().to_string();
    stage.outside.routes_to(&subnet, &stage.node);
    let mirror = Mirror::on(&stage.pod, PORT);
    stage.sniffer.allow(stage.pod.address(), PORT);
    let to = SocketAddrV4::new(stage.pod.address(), mirror.port());
    let mut client = Client::udp(&stage.outside, 0, to);
    assert_eq!(*client.ask(1).ip(), stage.outside.address());
    let mut table = SnatTable::of(&stage.node);
    let noted = |table: &SnatTable| {
        let all = table.entries();
        all.iter()
            .filter(|(key, _)| key.way == WAY_OUT && key.src_port == PORT.to_be_bytes())
            .count()
    };
    assert_eq!(noted(&table), 1);
    table.age(121, |key, own| key.way == WAY_OUT && own == PORT);
    eventually("the note is swept", SOON, || noted(&table) == 0);
    // A new packet is a new note.
    client.ask(2);
    assert_eq!(noted(&table), 1);
}

/// Four ports for twelve connections, one after the other.
#[test]
fn a_port_that_is_used_again_at_once_is_another_connection() {
    let stage = Stage::with(&["--snat-ports=50000-50003"]);
    let mirror = Mirror::on(&stage.outside, PORT);
    let to = stage.outside.at(mirror.port());
    stage
        .pod
        .sysctl("net.ipv4.ip_local_port_range", "50000 50003");
    stage.pod.sysctl("net.ipv4.tcp_tw_reuse", 1);
    for number in 0..12 {
        let mut client = Client::tcp(&stage.pod, to).unwrap();
        client.ask(number);
        let Client::Tcp(stream) = client else {
            panic!("Client::tcp made another kind of client")
        };
        // Neither end remembers the connection.
        reset_at_end(&stream);
    }
}
