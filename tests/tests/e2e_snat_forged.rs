//! Somebody who knows the addresses and ports of an idle connection, and nothing else, cannot end it.

#![cfg(test)]

use std::net::SocketAddrV4;

use etherparse::PacketBuilder;
use flannel_common::snat::{Key, NANOS, Seen};
use flannel_tests::host::Host;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::snat_table::SnatTable;
use flannel_tests::stage::Stage;
use flannel_tests::{raw, talk, tcp};
use rstest::rstest;

const TCP: u8 = 6;

/// In whose name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    /// The server's, towards the node.
    Server,
    /// The pod's, by another pod of the node.
    Pod,
}

#[derive(Debug, Clone, Copy)]
enum Forgery {
    Rst,
    RstAck,
    Fin,
    Syn,
    SynAck,
}

/// Packets with numbers at a venture.
fn forged(what: Forgery, from: SocketAddrV4, to: SocketAddrV4) -> Vec<Vec<u8>> {
    let numbers = (0..20_u32).map(|nth| nth.wrapping_mul(0x9e37_79b9) ^ 0x1234_5678);
    let packet = |seq: u32| {
        let builder = PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64).tcp(
            from.port(),
            to.port(),
            seq,
            500,
        );
        let ack = seq.rotate_left(16);
        let builder = match what {
            Forgery::Rst => builder.rst(),
            Forgery::RstAck => builder.rst().ack(ack),
            Forgery::Fin => builder.fin().ack(ack),
            Forgery::Syn => builder.syn(),
            Forgery::SynAck => builder.syn().ack(ack),
        };
        let mut packet = Vec::new();
        builder.write(&mut packet, &[]).expect("a segment");
        packet
    };
    numbers.map(packet).collect()
}

/// What keeps the connection from `port` alive on the node; ours or the kernel's.
fn is_established(stage: &Stage<AnyDaemon>, port: u16) -> bool {
    let Some(agent) = stage.node.agent() else {
        let list = stage
            .node
            .exec(&format!("conntrack -L -p tcp --sport {port}"));
        return list.contains("ESTABLISHED");
    };
    let entries = SnatTable::of(agent).entries();
    let ours = entries
        .iter()
        .filter(|(key, entry)| of(key, entry.port) == port);
    let seen = ours.fold(Seen::default(), |seen, (_, entry)| {
        seen.and(Seen(entry.seen))
    });
    SnatTable::of(agent).times().lifetime(TCP, seen, 0) == 432_000 * NANOS
}

/// The pod's port.
fn of(key: &Key, target: [u8; 2]) -> u16 {
    match key.way {
        flannel_common::snat::WAY_OUT => u16::from_be_bytes(key.src_port),
        _ => u16::from_be_bytes(target),
    }
}

#[rstest]
fn an_idle_connection_outlives_it(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(Name::Server, Name::Pod)] name: Name,
    #[values(
        Forgery::Rst,
        Forgery::RstAck,
        Forgery::Fin,
        Forgery::Syn,
        Forgery::SynAck
    )]
    what: Forgery,
) {
    let stage = Stage::on(kind);
    let server = tcp::Server::on(&stage.outside);
    let to = stage.outside.at(server.port());
    let mut idle = talk::Tcp::open(&server, &stage.pod, to);
    idle.rounds(3);
    let port = idle.port();
    assert!(is_established(&stage, port));

    // Each of them comes to the node. What comes behind them shows that they have passed.
    let (device, from, other_end) = match name {
        Name::Server => (Node::UPLINK, to, idle.seen()),
        Name::Pod => ("cni0", idle.client(), to),
    };
    let filter = format!(
        "tcp and src host {} and src port {} and dst host {} and dst port {}",
        from.ip(),
        from.port(),
        other_end.ip(),
        other_end.port()
    );
    let came = Capture::start(stage.node.node(), device, &filter);
    match name {
        Name::Server => {
            raw::send(&stage.outside, &forged(what, to, idle.seen()));
            stage.outside.ping(stage.address()).succeeds();
        }
        Name::Pod => {
            let other = stage.another_pod("other");
            if kind == Kind::Flanneld {
                // Conntrack finds them invalid, and nobody translates that.
                stage.sniffer.allow(stage.pod.address(), port);
            }
            raw::send(&other, &forged(what, idle.client(), to));
            other.ping(stage.outside.address()).succeeds();
        }
    }
    came.packets(20);
    assert!(is_established(&stage, port));

    // Ten seconds are what a reset would have left it, and two minutes a FIN.
    if let Some(agent) = stage.node.agent() {
        let mut table = SnatTable::of(agent);
        let over = talk::Tcp::open(&server, &stage.pod, to);
        let over_port = over.port();
        over.reset();
        let is_there = |port| {
            let flows = SnatTable::of(agent).flows();
            flows.iter().any(|(key, _)| of(key, [0; 2]) == port)
        };
        table.age(600, |key, own| key.proto == TCP && own == port);
        eventually("the agent has swept", SOON, || {
            table.age(30, |key, own| key.proto == TCP && own == over_port);
            !is_there(over_port)
        });
        assert!(is_there(port));
    }
    idle.rounds(3);
    assert!(is_established(&stage, port));
    idle.close();
    eventually("its true end is believed", SOON, || {
        !is_established(&stage, port)
    });
}
