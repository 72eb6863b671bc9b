//! The flow table as an LRU, packet by packet: what it gives up costs a packet the long way.

#![cfg(test)]

use flannel_common::program::Program::{OverlayTx, PodTx};
use flannel_common::reason::Reason;
use flannel_tests::packet::flows::{
    is_fast_in, is_fast_out, tcp_key, through_the_stack_in, through_the_stack_out,
};
use flannel_tests::packet::{Fixture, Inner, Node, UNSPEC};

/// As small as a test can fill.
const ENTRIES: u32 = 2048;
const SOURCE_PORT: usize = 34;

/// The packet that opens the `n`th flow of a pod's flood, at the hooks before and behind the stack.
fn flood(node: &mut Fixture, n: u32) {
    let [a, b, c, d] = n.to_be_bytes();
    let of = |inner: Inner| {
        let mut packet = Inner {
            src: [10, 244, 1, 9],
            ..inner
        }
        .udp();
        packet[SOURCE_PORT..SOURCE_PORT + 4].copy_from_slice(&[c, d, a | 1, b]);
        packet
    };
    let before = of(Inner::from_pod());
    assert_eq!(node.run(PodTx, &before).action, UNSPEC);
    node.run(OverlayTx, &of(Inner::outbound()));
}

/// One pod's flows push another's idle one out of the table. Its next packets take the stack, as any new flow's, and it is fast again.
#[test]
fn an_idle_flow_that_a_flood_pushed_out_is_proven_anew() {
    let mut node = Node {
        flow_entries: ENTRIES,
        ..Node::default()
    }
    .load();
    through_the_stack_out(&mut node, Inner::tcp);
    through_the_stack_in(&mut node, Inner::tcp);
    assert!(is_fast_out(&mut node) && is_fast_in(&mut node));
    let mut flooded = 0;
    while node.flow(&tcp_key()).is_some() {
        assert!(flooded < 50 * ENTRIES, "what nobody uses goes");
        flood(&mut node, flooded);
        flooded += 1;
    }
    assert!(
        flooded > ENTRIES / 2,
        "{flooded}: it was not the first to go"
    );
    let packet = Inner::from_pod().tcp();
    let sent = node.run(PodTx, &packet);
    assert_eq!((sent.action, sent.packet), (UNSPEC, packet), "by the stack");
    through_the_stack_out(&mut node, Inner::tcp);
    through_the_stack_in(&mut node, Inner::tcp);
    assert!(is_fast_out(&mut node) && is_fast_in(&mut node));
}

/// One that is in use stays, or is soon fast again.
#[test]
fn a_flow_in_use_outlives_a_flood() {
    let mut node = Node {
        flow_entries: ENTRIES,
        ..Node::default()
    }
    .load();
    let mut slow = 0;
    for n in 0..10 * ENTRIES {
        flood(&mut node, n);
        if n % 16 == 0 && !is_fast_out(&mut node) {
            slow += 1;
            through_the_stack_out(&mut node, Inner::tcp);
            through_the_stack_in(&mut node, Inner::tcp);
        }
    }
    let fast = node.count(PodTx, Reason::FastTx).packets;
    println!("{fast} packets past the stack, {slow} not");
    assert!(fast > 20 * slow, "{fast} past the stack, {slow} not");
}
