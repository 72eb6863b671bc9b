//! Events: reported when somebody listens, to what was asked for, and for as long as that lasts.

#![cfg(test)]

use flannel_common::event::HEAD;
use flannel_common::header::Eth;
use flannel_common::program::Program;
use flannel_common::reason::Reason;
use flannel_tests::packet::{Fixture, Inner, Node};

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
