//! `--fast-path=always`, packet by packet: where a pod is, is looked at anew from time to time, and forgotten after a while.

#![cfg(test)]

use flannel_common::flow::{FlowKey, LIFETIME, REFRESH};
use flannel_common::globals::FAST_PATH_ALWAYS;
use flannel_common::program::Program::{DirectRx, OverlayRx, PodRx, PodTx, UplinkRx};
use flannel_common::reason::Reason;
use flannel_tests::packet::{Fixture, Inner, Node, REDIRECT, vxlan};
use rstest::rstest;

const POD: FlowKey = FlowKey::pod([10, 244, 1, 5]);

/// How packets reach the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Tunnel,
    Direct,
}

impl Way {
    /// A packet comes in. Whether it goes to the pod at once.
    fn is_fast(self, node: &mut Fixture) -> bool {
        let (program, packet) = match self {
            Self::Tunnel => (UplinkRx, vxlan(&Inner::inbound().udp())),
            Self::Direct => (DirectRx, self.inner().udp()),
        };
        let before = node.count(program, Reason::FastRx).packets;
        node.run(program, &packet);
        node.count(program, Reason::FastRx).packets > before
    }

    fn inner(self) -> Inner {
        match self {
            Self::Tunnel => Inner::inbound(),
            // To the device's own MAC, which in a test run is the loopback device's.
            Self::Direct => Inner {
                dst_mac: [0; 6],
                ..Inner::inbound()
            },
        }
    }

    /// The packet that came in comes out of the stack.
    fn comes_out(self, node: &mut Fixture) {
        if self == Self::Tunnel {
            node.run(OverlayRx, &self.inner().udp());
        }
        node.run(PodRx, &Inner::to_pod().udp());
    }
}

/// A node that knows where its pod is.
fn learnt(way: Way) -> Fixture {
    let mut node = Node {
        fast_path: FAST_PATH_ALWAYS,
        ..Node::default()
    }
    .load();
    if way == Way::Direct {
        node.direct_peer(Node::PEER_SUBNET, 24, Node::PEER_IP);
    }
    assert!(!way.is_fast(&mut node));
    way.comes_out(&mut node);
    assert!(way.is_fast(&mut node));
    node
}

fn age(node: &mut Fixture, ticks: u32) {
    let mut pod = node.flow(&POD).expect("the pod is known");
    pod.rx.verified = pod.rx.verified.wrapping_sub(ticks) | 1;
    if pod.rx.probed != 0 {
        pod.rx.probed = pod.rx.probed.wrapping_sub(ticks) | 1;
    }
    node.set_flow(&POD, &pod);
}

#[rstest]
fn one_packet_looks_and_the_others_go_on(#[values(Way::Tunnel, Way::Direct)] way: Way) {
    let mut node = learnt(way);
    age(&mut node, REFRESH);
    assert!(!way.is_fast(&mut node), "this one looks");
    assert!(!way.is_fast(&mut node), "and what is behind it");
    let seen = |node: &Fixture| node.flow(&POD).map(|pod| pod.rx.verified);
    let before = seen(&node);
    way.comes_out(&mut node);
    assert_ne!(seen(&node), before, "the pod is where it was");
    assert!(way.is_fast(&mut node));
}

#[rstest]
fn what_nobody_has_seen_for_long_is_forgotten(#[values(Way::Tunnel, Way::Direct)] way: Way) {
    let mut node = learnt(way);
    age(&mut node, LIFETIME);
    for _ in 0..3 {
        assert!(!way.is_fast(&mut node));
    }
    way.comes_out(&mut node);
    assert!(way.is_fast(&mut node));
}

/// The stack hears its own addresses from nobody else (`fib_validate_source`), and other nodes' policies may let the node in.
#[rstest]
#[case::the_overlays([10, 244, 1, 0], false)]
#[case::the_bridges([10, 244, 1, 1], false)]
#[case::a_pods([10, 244, 1, 5], true)]
fn a_pod_does_not_send_as_the_node(#[case] src: [u8; 4], #[case] fast: bool) {
    let mut node = learnt(Way::Tunnel);
    let packet = Inner {
        src,
        ..Inner::from_pod()
    };
    let sent = node.run(PodTx, &packet.udp());
    assert_eq!(sent.action == REDIRECT, fast, "{}", sent.action);
}
