//! A flow between pods through the tunnel, packet by packet, for tests of the fast path.

use flannel_common::flow::{Flow, FlowKey, Tick};
use flannel_common::program::Program::{OverlayRx, OverlayTx, PodRx, PodTx, UplinkRx};
use flannel_common::reason::Reason;

use super::{Fixture, Inner, Node, REDIRECT, UNSPEC, vxlan};

/// Flags of TCP segments.
pub const SYN: u8 = 0x02;
pub const SYN_ACK: u8 = 0x12;
pub const FIN_ACK: u8 = 0x11;
pub const RST: u8 = 0x04;

fn key(proto: u8, remote_port: u16) -> FlowKey {
    FlowKey {
        local: Inner::outbound().src,
        remote: Inner::outbound().dst,
        local_port: 40_000u16.to_be_bytes(),
        remote_port: remote_port.to_be_bytes(),
        proto,
        pad: [0; 3],
    }
}

/// The flow of [`Inner::tcp`].
pub fn tcp_key() -> FlowKey {
    key(6, 80)
}

/// The flow of [`Inner::udp`].
pub fn udp_key() -> FlowKey {
    key(17, 53)
}

/// A packet from the pod through the stack.
pub fn through_the_stack_out(node: &mut Fixture, make: fn(&Inner) -> Vec<u8>) {
    node.prepare(&[PodTx, OverlayTx]);
    assert_eq!(node.run(PodTx, &make(&Inner::from_pod())).action, UNSPEC);
    assert_eq!(
        node.run(OverlayTx, &make(&Inner::outbound())).action,
        REDIRECT
    );
}

/// A packet from the overlay through the stack.
pub fn through_the_stack_in(node: &mut Fixture, make: fn(&Inner) -> Vec<u8>) {
    node.prepare(&[UplinkRx, OverlayRx, PodRx]);
    let inner = make(&Inner::inbound());
    assert_eq!(node.run(UplinkRx, &vxlan(&inner)).action, REDIRECT);
    assert_eq!(node.run(OverlayRx, &inner).action, UNSPEC);
    assert_eq!(node.run(PodRx, &make(&Inner::to_pod())).action, UNSPEC);
}

/// A node on which the flow of [`Inner::tcp`] is proven in both directions.
pub fn verified_tcp() -> Fixture {
    let mut node = Node::default().load();
    // What is proven lasts a while, and tests begin then.
    node.prepare(&[PodTx, OverlayTx, UplinkRx, OverlayRx, PodRx]);
    through_the_stack_out(&mut node, Inner::tcp);
    through_the_stack_in(&mut node, Inner::tcp);
    node
}

/// Edits the flow of [`Inner::tcp`].
pub fn change_flow(node: &mut Fixture, change: impl FnOnce(&mut Flow)) {
    let mut flow = node.flow(&tcp_key()).expect("a flow");
    change(&mut flow);
    node.set_flow(&tcp_key(), &flow);
}

/// 0 stands for never.
pub(super) fn earlier(tick: Tick, ticks: Tick) -> Tick {
    match tick {
        0 => 0,
        tick => tick.wrapping_sub(ticks) | 1,
    }
}

/// Ages it as if its last proof were `ticks` older.
pub fn age(node: &mut Fixture, ticks: u32) {
    change_flow(node, |flow| {
        for half in [&mut flow.tx, &mut flow.rx] {
            half.verified = half.verified.wrapping_sub(ticks) | 1;
            half.probed = earlier(half.probed, ticks);
        }
    });
}

/// Whether the next packet from the pod skips the stack.
pub fn is_fast_out(node: &mut Fixture) -> bool {
    let before = node.count(PodTx, Reason::FastTx).packets;
    node.run(PodTx, &Inner::from_pod().tcp());
    node.count(PodTx, Reason::FastTx).packets > before
}

/// Whether the next packet to the pod skips the stack.
pub fn is_fast_in(node: &mut Fixture) -> bool {
    let before = node.count(UplinkRx, Reason::FastRx).packets;
    node.run(UplinkRx, &vxlan(&Inner::inbound().tcp()));
    node.count(UplinkRx, Reason::FastRx).packets > before
}
