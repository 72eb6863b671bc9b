//! Events: reported when somebody listens, to what was asked for, and for as long as that lasts.

#![cfg(test)]

use bytemuck::Zeroable as _;
use flannel_common::cidr;
use flannel_common::event::{Filter, HEAD, Note, PEER_PREFIXES, Prefix};
use flannel_common::header::Eth;
use flannel_common::program::Program;
use flannel_common::reason::Reason;
use flannel_tests::packet::{Fixture, Inner, Node, REDIRECT, SHOT, UNSPEC};

/// Longer than any test.
const LONG: u64 = u64::MAX;
/// Some time ago.
const OVER: u64 = 1;

fn send(node: &mut Fixture, dst: [u8; 4]) -> Vec<u8> {
    let packet = Inner {
        dst,
        ..Inner::outbound()
    };
    node.run(Program::OverlayTx, &packet.udp()).packet
}

/// More packets than the buffer has room for: each would be in it, or counted as lost.
#[test]
fn while_nobody_listens_nothing_is_written() {
    let mut node = Node::default().load();
    for until in [0, OVER] {
        node.listen(until, 0, false);
        for n in 0..2_000 {
            // Sent and dropped in turns.
            send(&mut node, [10, 244, if n % 2 == 0 { 2 } else { 9 }, 7]);
        }
        assert_eq!(node.event(), None);
        assert_eq!(node.lost_events(), 0);
    }
    // The same packets, and somebody who listens.
    node.listen(LONG, 0, false);
    for _ in 0..2_000 {
        send(&mut node, [10, 244, 2, 7]);
    }
    assert!(node.event().is_some() && node.lost_events() > 0);
}

#[test]
fn an_event_has_the_packet_as_the_program_left_it() {
    let mut node = Node::default().load();
    send(&mut node, [10, 244, 2, 7]);
    assert_eq!(node.event(), None, "nobody listens");
    node.listen(LONG, 0, false);
    let sent = send(&mut node, [10, 244, 2, 7]);
    let event = node.event().unwrap();
    assert_eq!(event.about.program, Program::OverlayTx as u8);
    assert_eq!(event.about.reason, Reason::Encap as u8);
    assert_eq!(event.about.len as usize, sent.len());
    let caught = usize::from(event.about.caught);
    assert_eq!(caught, sent.len().min(HEAD));
    // The outer Ethernet header is the kernel's to write.
    assert_eq!(event.head[Eth::LEN..caught], sent[Eth::LEN..caught]);
    assert_eq!(node.event(), None);
}

#[test]
fn drops_are_told_whatever_the_sample_is() {
    let mut node = Node::default().load();
    node.listen(LONG, u32::MAX >> 1, true);
    send(&mut node, [10, 244, 2, 7]);
    assert_eq!(node.event(), None);
    send(&mut node, [10, 244, 9, 9]);
    assert_eq!(node.event().unwrap().about.reason, Reason::NoPeer as u8);
}

#[test]
fn a_listener_that_went_without_a_word_is_forgotten() {
    let mut node = Node::default().load();
    node.listen(OVER, 0, false);
    send(&mut node, [10, 244, 2, 7]);
    assert_eq!(node.event(), None);
    assert_eq!(node.listens_until(), 0);
}

#[test]
fn what_finds_no_room_is_counted() {
    let mut node = Node::default().load();
    node.listen(LONG, 0, false);
    // 256 KiB hold less than 1,700 events of 160 bytes.
    for _ in 0..2_000 {
        send(&mut node, [10, 244, 9, 9]);
    }
    let mut kept = 0;
    while node.event().is_some() {
        kept += 1;
    }
    assert!(kept > 1_000, "{kept}");
    assert_eq!(node.lost_events() + kept, 2_000);
}

/// Whatever is told, and to whom: the packet goes where it goes.
#[test]
fn the_verdict_is_the_same_while_somebody_listens() {
    let mut node = Node::default().load();
    let verdicts = |node: &mut Fixture| {
        let to = |dst| Inner {
            dst,
            ..Inner::outbound()
        };
        let sent = to([10, 244, 2, 7]);
        [
            node.run(Program::OverlayTx, &sent.udp()).action,
            node.run(Program::OverlayTx, &to([10, 244, 9, 9]).udp())
                .action,
            node.run(Program::PodTx, &sent.udp()).action,
        ]
    };
    let alone = verdicts(&mut node);
    assert_eq!(alone, [REDIRECT, SHOT, UNSPEC]);
    let nobody_else = Filter {
        device: 77,
        ..Filter::zeroed()
    };
    for filter in [Filter::zeroed(), nobody_else] {
        node.filter(filter);
        for (until, drops_only) in [(LONG, false), (LONG, true), (OVER, false)] {
            node.listen(until, 0, drops_only);
            assert_eq!(verdicts(&mut node), alone);
        }
    }
    let mut actions = Vec::new();
    while let Some(event) = node.event() {
        actions.push(event.about.action);
    }
    let byte = |action: i32| action.to_le_bytes()[0];
    assert_eq!(
        actions,
        [byte(REDIRECT), byte(SHOT), byte(UNSPEC), byte(SHOT)],
        "all, then the drop"
    );
    assert!(Note::is_drop(byte(SHOT)));
}

fn prefix(address: [u8; 4], len: u8) -> Prefix {
    Prefix {
        network: u32::from_be_bytes(address),
        mask: cidr::mask(len),
    }
}

/// Reasons of what was told since.
fn told(node: &mut Fixture) -> Vec<u8> {
    let mut reasons = Vec::new();
    while let Some(event) = node.event() {
        reasons.push(event.about.reason);
    }
    reasons
}

#[test]
fn only_what_is_wanted_is_told_whichever_header_says_it() {
    let mut node = Node::default().load();
    node.listen(LONG, 0, false);
    let packet = Inner::outbound();
    let encap = Reason::Encap as u8;
    // As `Inner::udp` has it.
    let port = 53;
    let mut peers = [Prefix::NONE; PEER_PREFIXES];
    peers[3] = prefix([192, 168, 0, 2], 32);
    let wanted = Filter {
        pod: prefix(packet.src, 32),
        peers,
        port,
        vxlan_port: 8472,
        device: 1,
        ..Filter::zeroed()
    };
    // The program has encapsulated it when it is told.
    for (filter, is_told) in [
        (wanted, true),
        (
            Filter {
                pod: prefix([10, 244, 1, 99], 32),
                ..wanted
            },
            false,
        ),
        (
            Filter {
                peers: [prefix([192, 168, 0, 3], 32); PEER_PREFIXES],
                ..wanted
            },
            false,
        ),
        (
            Filter {
                port: port + 1,
                ..wanted
            },
            false,
        ),
        (
            Filter {
                port: 8472,
                ..wanted
            },
            true,
        ),
        (
            Filter {
                device: 2,
                ..wanted
            },
            false,
        ),
        (
            Filter {
                vxlan_port: 0,
                ..wanted
            },
            false,
        ),
    ] {
        node.filter(filter);
        node.run(Program::OverlayTx, &packet.udp());
        let expected: &[u8] = if is_told { &[encap] } else { &[] };
        assert_eq!(told(&mut node), expected, "{filter:?}");
    }
    // What is no IPv4 meets no wish for addresses, and every other.
    let mut arp = packet.udp();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    for (filter, count) in [
        (wanted, 0),
        (
            Filter {
                device: 1,
                ..Filter::zeroed()
            },
            1,
        ),
    ] {
        node.filter(filter);
        node.run(Program::OverlayTx, &arp);
        assert_eq!(told(&mut node).len(), count, "{filter:?}");
    }
}
