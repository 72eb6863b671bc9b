//! Fragments, and packets cut off at every length: none leaves under a pod's address.

use flannel_common::program::Program;
use flannel_common::program::Program::{OverlaySnatTx, SnatOddTx, UplinkSnatRx, UplinkTx};
use flannel_common::reason::Reason;
use flannel_tests::packet::outside::{
    ACK, IP, POD, Plain, REMOTE_POD, ROUTER, SERVER, SYN, US, fragments, reassemble, source,
};
use flannel_tests::packet::{Fixture, Node, REDIRECT, SHOT, UNSPEC};
use rstest::rstest;

type Make = fn(Plain) -> Vec<u8>;

fn big() -> Plain {
    Plain {
        sport: 50_000,
        payload: 1000,
        ..Plain::default()
    }
}

/// Runs every fragment and puts together what comes out.
fn through(node: &mut Fixture, hook: Program, parts: &[Vec<u8>]) -> Vec<u8> {
    let out: Vec<_> = parts
        .iter()
        .map(|part| {
            let out = node.run(hook, part);
            assert_eq!(out.action, UNSPEC);
            out.packet
        })
        .collect();
    let mut sorted = out;
    sorted.sort_by_key(|f| u16::from_be_bytes([f[IP + 6], f[IP + 7]]) & 0x1fff);
    reassemble(&sorted)
}

#[rstest]
#[case::udp(Plain::udp, Plain::udp)]
#[case::udp_without_checksum(Plain::udp_without_checksum, Plain::udp_without_checksum)]
#[case::icmp(Plain::ping, Plain::pong)]
#[case::tcp(|p: Plain| p.tcp(ACK), |p: Plain| p.tcp(ACK))]
#[case::gre(|p: Plain| p.other(47), |p: Plain| p.other(47))]
fn fragments_there_and_back(#[case] ask: Make, #[case] answer: Make) {
    let mut node = Node::default().load_snat();
    let seen = big().from(US, 50_000);
    let gone = through(&mut node, UplinkTx, &fragments(&ask(big()), 400));
    assert_eq!(gone, ask(seen));
    let back = fragments(&answer(seen.answer()), 400);
    let back = through(&mut node, UplinkSnatRx, &back);
    assert_eq!(back, answer(big().answer()));
}

/// On the way out every order works: no fragment of a pod can leave as anything but the node.
#[test]
fn the_first_fragment_may_leave_last() {
    let mut node = Node::default().load_snat();
    let mut parts = fragments(&big().udp(), 400);
    parts.reverse();
    let gone = through(&mut node, UplinkTx, &parts);
    assert_eq!(gone, big().from(US, 50_000).udp());
}

/// On the way in a follower ahead of the first arrives once more, unchanged; those behind it are the pod's.
#[test]
fn a_follower_that_arrives_first_comes_again() {
    let mut node = Node::default().load_snat();
    node.run(UplinkTx, &big().udp());
    let parts = fragments(&big().from(US, 50_000).answer().udp(), 400);
    let early = node.run(UplinkSnatRx, &parts[2]);
    assert_eq!((early.action, early.packet), (REDIRECT, parts[2].clone()));
    for part in [&parts[0], &parts[1], &parts[2]] {
        let out = node.run(UplinkSnatRx, part);
        assert_eq!(out.packet[IP + 16..IP + 20], POD);
    }
}

/// The node's own fragments are its own, in order: none comes again.
#[test]
fn fragments_for_the_node_itself_are_left_to_it() {
    let mut node = Node::default().load_snat();
    let parts = fragments(&big().from(US, 111).answer().udp(), 400);
    for part in &parts {
        let out = node.run(UplinkSnatRx, part);
        assert_eq!((out.action, &out.packet), (UNSPEC, part));
    }
}

#[test]
fn fragments_of_a_connection_that_came_in_keep_their_source() {
    let mut node = Node::default().load_snat();
    let question = big().answer();
    node.run(UplinkSnatRx, &question.udp());
    let answer = question.answer().udp();
    let gone = through(&mut node, UplinkTx, &fragments(&answer, 400));
    assert_eq!(gone, answer);
}

#[test]
fn fragments_to_exempt_destinations_keep_their_source() {
    let mut node = Node::default().load_snat();
    node.exempt(SERVER, 32);
    let packet = big().udp();
    let mut parts = fragments(&packet, 400);
    parts.reverse();
    assert_eq!(through(&mut node, UplinkTx, &parts), packet);
}

/// What the first fragment of a later packet says replaces what was said of the identification before.
#[test]
fn identifications_are_used_again() {
    let mut node = Node::default().load_snat();
    let question = big().answer();
    node.run(UplinkSnatRx, &question.udp());
    let left = fragments(&question.answer().udp(), 400);
    assert_eq!(through(&mut node, UplinkTx, &left), question.answer().udp());
    let other = Plain {
        sport: 50_001,
        ..big()
    };
    let gone = through(&mut node, UplinkTx, &fragments(&other.udp(), 400));
    assert_eq!(gone, other.from(US, 50_000).udp());
}

#[test]
fn the_nodes_own_fragments_are_untouched() {
    let mut node = Node::default().load_snat();
    for part in fragments(&big().from(US, 50_000).udp(), 400) {
        assert_eq!(node.run(UplinkTx, &part).packet, part);
    }
}

/// Every packet a pod may send, whole.
fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let flow = Plain::default();
    let about = flow.from(US, 40_000).answer().udp();
    vec![
        ("tcp", flow.tcp(SYN)),
        ("udp", flow.udp()),
        ("ping", flow.ping()),
        ("sctp", flow.other(132)),
        ("gre", flow.other(47)),
        ("error", flow.error(3, 3, &about, 1000)),
        ("fragment", fragments(&big().udp(), 400).remove(1)),
    ]
}

#[rstest]
#[case::uplink(UplinkTx, POD, SERVER)]
#[case::overlay(OverlaySnatTx, SERVER, REMOTE_POD)]
fn cut_off_at_every_length_nothing_leaves_as_a_pod(
    #[case] hook: Program,
    #[case] src: [u8; 4],
    #[case] dst: [u8; 4],
) {
    let mut node = Node::default().load_snat();
    for (name, mut packet) in samples() {
        packet[IP + 12..IP + 16].copy_from_slice(&src);
        packet[IP + 16..IP + 20].copy_from_slice(&dst);
        for len in 34..packet.len() {
            let out = node.run(hook, &packet[..len]);
            let still = out.packet.get(IP + 12..IP + 16) == Some(&src);
            // Whoever is in the cluster is told of packets that were never translated.
            let told = hook == OverlaySnatTx && name == "error" && len >= IP + 20 + 8 + 28;
            assert!(out.action == SHOT || !still || told, "{name}, {len} bytes");
        }
    }
}

/// What is cut off and comes in is the stack's to judge.
#[test]
fn cut_off_at_every_length_nothing_that_arrives_is_dropped() {
    let mut node = Node::default().load_snat();
    let flow = Plain::default();
    let (_, port) = source(&node.run(UplinkTx, &flow.tcp(SYN)).packet);
    let answer = flow.from(US, port).answer();
    let left = flow.from(US, port).tcp(SYN);
    let router = Plain {
        src: ROUTER,
        dst: US,
        ..flow
    };
    for packet in [
        answer.tcp(ACK),
        answer.udp(),
        answer.pong(),
        router.error(11, 0, &left, 1000),
        fragments(&big().answer().udp(), 400).remove(1),
    ] {
        for len in 34..packet.len() {
            assert_eq!(
                node.run(UplinkSnatRx, &packet[..len]).action,
                UNSPEC,
                "{len}"
            );
        }
    }
}

#[rstest]
#[case::version(0x65)]
#[case::header_of_four_words(0x44)]
#[case::header_beyond_the_packet(0x4f)]
fn an_impossible_header_does_not_leave(#[case] first: u8) {
    let mut node = Node::default().load_snat();
    let mut packet = Plain {
        payload: 0,
        ..Plain::default()
    }
    .udp();
    packet[IP] = first;
    assert_eq!(node.run(UplinkTx, &packet).action, SHOT);
    assert_eq!(node.counted(UplinkTx), [(Reason::SnatMalformed, 1)]);
    assert_eq!(node.counted(SnatOddTx), []);
}

/// Half of the programs gone (a pin removed by hand): still nothing leaves as a pod.
#[test]
fn without_its_steps_a_program_drops() {
    let mut node = Node::default().load();
    assert_eq!(node.run(UplinkTx, &Plain::default().tcp(SYN)).action, SHOT);
    assert_eq!(node.counted(UplinkTx), [(Reason::SnatUnready, 1)]);
}
