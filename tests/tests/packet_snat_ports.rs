//! Ports of translated flows: shared out, exhausted, and kept apart from the node's own.

use std::collections::BTreeSet;

use flannel_common::program::Program::{SnatOpen, UplinkSnatRx, UplinkTx};
use flannel_common::reason::Reason;
use flannel_tests::packet::line::{Line, Side};
use flannel_tests::packet::outside::{
    ACK, FIN_ACK, OTHER_POD, POD, Plain, RST, SYN, SYN_ACK, US, source,
};
use flannel_tests::packet::world::world;
use flannel_tests::packet::{Fixture, Node, SHOT, UNSPEC};
use rstest::rstest;

type Make = fn(Plain) -> Vec<u8>;

fn with_ports(min: u16, max: u16) -> Fixture {
    Node {
        snat_ports: (min, max),
        ..Node::default()
    }
    .load_snat()
}

/// Several pods use the same port towards the same server: each gets its own, and its own answers.
#[test]
fn no_two_flows_leave_as_one() {
    let mut node = with_ports(50_000, 50_015);
    let flows: Vec<Plain> = (1..=16u8)
        .map(|pod| Plain::default().from([10, 244, 1, pod], 50_000))
        .collect();
    let ports: Vec<u16> = flows
        .iter()
        .map(|flow| node.leaves(&flow.tcp(SYN)).1)
        .collect();
    assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 16);
    for (flow, port) in flows.iter().zip(&ports) {
        let answer = flow.from(US, *port).answer().tcp(SYN_ACK);
        assert_eq!(
            node.run(UplinkSnatRx, &answer).packet,
            flow.answer().tcp(SYN_ACK)
        );
    }

    // The range is exhausted: new flows fail and say so, old ones live.
    let late = Plain::default().from([10, 244, 1, 99], 50_000);
    assert_eq!(node.run(UplinkTx, &late.tcp(SYN)).action, SHOT);
    assert_eq!(node.count(SnatOpen, Reason::SnatExhausted).packets, 1);
    assert_eq!(node.leaves(&flows[7].tcp(ACK)), (US, ports[7]));
    // Another remote port is another range.
    let elsewhere = Plain { dport: 80, ..late };
    assert_eq!(node.leaves(&elsewhere.tcp(SYN)).0, US);
}

/// A pod that knew would get what a server sends to somebody else.
#[test]
fn no_port_follows_from_another() {
    let mut node = with_ports(50_000, 59_999);
    // Each to a server of its own: no port is taken.
    let ports: BTreeSet<u16> = (1..=64u8)
        .map(|n| Plain {
            dst: [198, 51, 100, n],
            ..Plain::default()
        })
        .map(|flow| node.leaves(&flow.tcp(SYN)).1)
        .collect();
    assert!(ports.len() > 56, "{ports:?}");
    let steps: BTreeSet<u16> = ports
        .iter()
        .zip(ports.iter().skip(1))
        .map(|(a, b)| b - a)
        .collect();
    assert!(steps.len() > 16, "{ports:?}");
}

/// And where those are taken as well, there is no room.
#[test]
fn who_finds_none_free_gets_one_of_more() {
    let mut node = Node {
        snat_ports: (50_000, 50_003),
        snat_more: (2_000, 2_003),
        // The loopback device, where the packets are, stands for an uplink.
        pair_index: 2,
        ..Node::default()
    }
    .load_snat();
    let flow = |pod: u8| Plain::default().from([10, 244, 1, pod], 50_000);
    let ports: Vec<u16> = (1..=8)
        .map(|pod| node.leaves(&flow(pod).tcp(SYN)).1)
        .collect();
    assert!(
        ports[..4]
            .iter()
            .all(|port| (50_000..=50_003).contains(port)),
        "{ports:?}"
    );
    assert!(
        ports[4..].iter().all(|port| (2_000..=2_003).contains(port)),
        "{ports:?}"
    );
    assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 8);
    for (pod, port) in (1..=8).zip(ports) {
        let answer = flow(pod).from(US, port).answer().tcp(SYN_ACK);
        let inner = flow(pod).answer().tcp(SYN_ACK);
        assert_eq!(node.run(UplinkSnatRx, &answer).packet, inner);
    }
    assert_eq!(node.run(UplinkTx, &flow(9).tcp(SYN)).action, SHOT);
    assert_eq!(node.count(SnatOpen, Reason::SnatExhausted).packets, 1);
}

/// flannel's `--ip-masq-fully-random-disable`, for whoever tells others his port: hole punching, SIP, IKE.
#[test]
fn a_flow_keeps_its_port_where_it_is_asked_to_and_nobody_has_it() {
    let mut node = Node {
        snat_ports: (50_000, 50_003),
        snat_keep: true,
        ..Node::default()
    }
    .load_snat();
    let flow = |pod: u8| Plain::default().from([10, 244, 1, pod], 4_500);
    assert_eq!(node.leaves(&flow(1).udp()), (US, 4_500));
    let elsewhere = Plain {
        dport: 80,
        ..flow(1)
    };
    assert_eq!(
        node.leaves(&elsewhere.udp()),
        (US, 4_500),
        "one port is one port"
    );
    let (_, port) = node.leaves(&flow(2).udp());
    assert!((50_000..=50_003).contains(&port), "{port}");
    let answer = flow(2).from(US, port).answer().udp();
    assert_eq!(
        node.run(UplinkSnatRx, &answer).packet,
        flow(2).answer().udp()
    );
}

/// A socket of the node's has it: WireGuard's, a time server's. The flow gets one of the range.
#[test]
fn a_port_that_a_socket_of_the_nodes_has_is_not_kept() {
    let stage = Node {
        snat_ports: (50_000, 50_003),
        snat_keep: true,
        ..Node::default()
    };
    world(&stage, |_, world| {
        let _socket = std::net::UdpSocket::bind("0.0.0.0:4500").expect("nobody has it");
        let flow = Plain::default().from(POD, 4_500);
        let (addr, port) = source(&world.leaves(flow.udp()).packet);
        assert_eq!(addr, US);
        assert!((50_000..=50_003).contains(&port), "{port}");
        let free = Plain::default().from(POD, 4_501);
        assert_eq!(source(&world.leaves(free.udp()).packet), (US, 4_501));
    });
}

/// With nobody sweeping, a flow that has outlived its time gives its port to a new one.
#[test]
fn the_dead_make_room_when_the_range_is_exhausted() {
    let mut node = with_ports(50_000, 50_000);
    let old = Plain::default();
    let new = old.from(OTHER_POD, 40_000);
    node.leaves(&old.udp());
    assert_eq!(node.run(UplinkTx, &new.udp()).action, SHOT, "alive");
    node.age_snat(31);
    assert_eq!(node.leaves(&new.udp()), (US, 50_000));
    assert_eq!(
        node.snat_entries().len(),
        2,
        "nothing of the old flow is left"
    );
    assert_eq!(node.run(UplinkTx, &old.udp()).action, SHOT);
}

/// A closed connection's port is only spared for as long as its last segments may take.
#[rstest]
#[case::ended_by_both(FIN_ACK, FIN_ACK, true)]
#[case::reset_by_the_pod(RST, ACK, true)]
#[case::ended_by_one(FIN_ACK, ACK, false)]
#[case::open(ACK, ACK, false)]
fn the_closed_make_room_when_the_range_is_exhausted(
    #[case] out: u8,
    #[case] back: u8,
    #[case] makes_room: bool,
) {
    let mut node = with_ports(50_000, 50_000);
    let old = Plain::default();
    let new = old.from(OTHER_POD, 40_000);
    let answer = old.from(US, 50_000).answer();
    let mut line = Line::default();
    node.leaves(&line.tcp(Side::Out, old, SYN));
    node.run(UplinkSnatRx, &line.tcp(Side::In, answer, SYN_ACK));
    node.run(UplinkSnatRx, &line.tcp(Side::In, answer, back));
    node.leaves(&line.tcp(Side::Out, old, out));
    if out != RST {
        node.run(UplinkSnatRx, &line.tcp(Side::In, answer, ACK));
    }
    assert_eq!(node.run(UplinkTx, &new.tcp(SYN)).action, SHOT, "too early");
    node.age_snat(2);
    let action = node.run(UplinkTx, &new.tcp(SYN)).action;
    assert_eq!(action == UNSPEC, makes_room);
}

/// The node's own connection is first: a pod gets another port towards that server.
#[rstest]
#[case::tcp(|p: Plain| p.tcp(SYN))]
#[case::tcp_answer(|p: Plain| p.tcp(SYN_ACK))]
#[case::udp(Plain::udp)]
#[case::ping(Plain::ping)]
fn the_nodes_own_port_is_not_given_to_a_pod(#[case] make: Make) {
    let mut node = with_ports(50_000, 50_007);
    let own = Plain::default().from(US, 50_000);
    let sent = node.run(UplinkTx, &make(own));
    assert_eq!((sent.action, sent.packet), (UNSPEC, make(own)));

    let pod = own.from(POD, 50_000);
    let ask: Make = if make(own)[23] == 6 {
        |p| p.tcp(SYN)
    } else {
        make
    };
    let gone = node.run(UplinkTx, &ask(pod)).packet;
    assert_ne!(gone, ask(own), "another port");

    let answer = if make(own)[23] == 1 {
        own.answer().pong()
    } else {
        make(own.answer())
    };
    let back = node.run(UplinkSnatRx, &answer);
    assert_eq!(back.packet, answer, "the answer is the node's");
}

/// The pod was first: the node's (or the kernel NAT's) flow gets another port, and its answers come back to it.
#[rstest]
#[case::tcp(|p: Plain| p.tcp(SYN), |p: Plain| p.tcp(SYN_ACK))]
#[case::udp(Plain::udp, Plain::udp)]
fn a_pods_port_is_not_given_to_the_node(#[case] ask: Make, #[case] answer: Make) {
    let mut node = with_ports(50_000, 50_007);
    let pod = Plain::default().from(POD, 50_000);
    let (_, taken) = node.leaves(&ask(pod));

    let own = pod.from(US, taken);
    for _ in 0..2 {
        let gone = node.run(UplinkTx, &ask(own)).packet;
        let (addr, port) = source(&gone);
        assert_eq!(addr, US);
        assert_ne!(port, taken);
        assert_eq!(gone, ask(own.from(US, port)));
        let back = node.run(UplinkSnatRx, &answer(own.from(US, port).answer()));
        assert_eq!(back.packet, answer(own.answer()), "the node's answer");
    }
    let back = node.run(UplinkSnatRx, &answer(own.answer()));
    assert_eq!(back.packet, answer(pod.answer()), "the pod's answer");
}

/// With no other port left the node's own flow keeps the one it has, and the pod's goes.
#[rstest]
#[case::tcp(|p: Plain| p.tcp(SYN), |p: Plain| p.tcp(SYN_ACK))]
#[case::udp(Plain::udp, Plain::udp)]
fn a_full_range_does_not_stop_the_node(#[case] ask: Make, #[case] answer: Make) {
    let mut node = with_ports(50_000, 50_000);
    let pod = Plain::default();
    assert_eq!(node.leaves(&ask(pod)), (US, 50_000));
    let own = pod.from(US, 50_000);
    for _ in 0..2 {
        let gone = node.run(UplinkTx, &ask(own));
        assert_eq!((gone.action, gone.packet), (UNSPEC, ask(own)));
        let back = node.run(UplinkSnatRx, &answer(own.answer()));
        assert_eq!(back.packet, answer(own.answer()), "the node's answer");
    }
    assert_eq!(node.count(SnatOpen, Reason::SnatExhausted).packets, 0);
    assert_eq!(node.run(UplinkTx, &ask(pod)).action, SHOT, "the pod's");
}

/// A protocol without ports has one flow per remote address; the node comes before its pods.
#[test]
fn without_ports_the_node_comes_first_and_one_pod_after_it() {
    let mut node = Node::default().load_snat();
    let first = Plain::default();
    let second = first.from(OTHER_POD, 0);
    let own = first.from(US, 0);
    assert_eq!(node.run(UplinkTx, &first.other(47)).action, UNSPEC);
    assert_eq!(node.run(UplinkTx, &second.other(47)).action, SHOT);
    assert_eq!(node.count(SnatOpen, Reason::SnatExhausted).packets, 1);
    assert_eq!(node.run(UplinkTx, &own.other(47)).packet, own.other(47));
    let back = node.run(UplinkSnatRx, &own.answer().other(47));
    assert_eq!(back.packet, own.answer().other(47));
    assert_eq!(node.run(UplinkTx, &first.other(47)).action, SHOT);
}

/// Ports of the node outside the range cannot clash, and cost no entry.
#[test]
fn the_nodes_other_ports_are_not_noted() {
    let mut node = Node::default().load_snat();
    for bytes in [
        Plain::default().from(US, 49_151).tcp(SYN),
        Plain::default().from(US, 22).udp(),
        Plain::default().from(US, 50_000).tcp(RST),
        Plain {
            dst: [224, 0, 0, 18],
            ..Plain::default().from(US, 0)
        }
        .other(112),
    ] {
        assert_eq!(node.run(UplinkTx, &bytes).packet, bytes);
    }
    assert_eq!(node.snat_entries(), []);
}
