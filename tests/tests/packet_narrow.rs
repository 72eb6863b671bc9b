//! A way to a peer that carries less than the overlay's MTU, packet by packet: what is longer is the stack's, which knows that
//! from the route.

#![cfg(test)]

use flannel_common::program::Program::PodTx;
use flannel_tests::packet::flows::{change_flow, verified_tcp};
use flannel_tests::packet::{Fixture, Inner, REDIRECT, UNSPEC};

const HEADERS: usize = 40;

/// What becomes of a segment of so many bytes, headers and all.
fn sent(node: &mut Fixture, bytes: usize) -> i32 {
    let segment = Inner {
        payload: bytes - HEADERS,
        ..Inner::from_pod()
    };
    node.run(PodTx, &segment.tcp()).action
}

#[test]
fn what_the_way_does_not_carry_takes_the_stack() {
    let mut node = verified_tcp();
    assert_eq!(sent(&mut node, 1249), REDIRECT);
    change_flow(&mut node, |flow| flow.peer.narrow = 39);
    assert_eq!(sent(&mut node, 1248), REDIRECT);
    assert_eq!(sent(&mut node, 1249), UNSPEC);
}
