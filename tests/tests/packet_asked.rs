//! Whether the host's firewall is asked about a peer's packets: as long as the agent is there, which hears the answer, and no longer.

#![cfg(test)]

use flannel_common::globals::FAST_PATH_ALWAYS;
use flannel_common::program::Program::{self, OverlayCatch, OverlayTx, PodTx, UplinkRx};
use flannel_common::reason::Reason;
use flannel_tests::packet::{Fixture, Inner, Node, vxlan};
use flannel_tests::wait::{SOON, eventually};
use rstest::rstest;

/// Long after whoever is there would have said so again.
const LONG_AGO: u32 = 1_000;

/// The programs' clock is up to ten milliseconds behind.
const JUST_NOW: u32 = 20;

/// Whether one of three packets asks.
fn asks(node: &mut Fixture, program: Program, packet: &[u8]) -> bool {
    let by_stack = |node: &Fixture| node.count(program, Reason::ByStack).packets;
    let before = by_stack(node);
    for _ in 0..3 {
        node.run(program, packet);
    }
    by_stack(node) > before
}

fn always() -> Node {
    Node {
        fast_path: FAST_PATH_ALWAYS,
        ..Node::default()
    }
}

#[rstest]
#[case::what_comes_in(Node::default(), UplinkRx, vxlan(&Inner::inbound().udp()))]
#[case::what_goes_out(Node::default(), OverlayTx, Inner::outbound().udp())]
#[case::without_proof(always(), PodTx, Inner::from_pod().udp())]
#[case::at_the_far_end(Node::default(), OverlayCatch, Inner::outbound().udp())]
#[case::of_the_backend_udp(Node::udp(), OverlayCatch, Inner::outbound().udp())]
fn nobody_asks_for_an_agent_that_is_dead(
    #[case] node: Node,
    #[case] program: Program,
    #[case] packet: Vec<u8>,
) {
    let mut node = node.load();
    node.prepare(&[program]);
    node.nothing_asked(Node::PEER_IP);
    assert!(!asks(&mut node, program, &packet), "there never was one");
    node.agent_said(LONG_AGO);
    assert!(!asks(&mut node, program, &packet), "it is dead");
    // It says so all the time: on a machine that stands still this once is soon long ago.
    eventually("who is there is asked", SOON, || {
        node.nothing_asked(Node::PEER_IP);
        node.agent_said(JUST_NOW);
        asks(&mut node, program, &packet)
    });
    node.nothing_asked(Node::PEER_IP);
    node.agent_said(LONG_AGO);
    assert!(!asks(&mut node, program, &packet), "it is dead again");
}
