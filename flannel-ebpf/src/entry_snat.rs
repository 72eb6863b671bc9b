//! The hooks of source NAT, attached only with `--ip-masq`.
//!
//! They are programs of their own, in a chain with those that tunnel: each has its own verifier budget,
//! and a node that does not translate pays nothing. What is rare continues in a program without a hook.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use flannel_common::Ipv4;
use flannel_common::program::Program;
use flannel_common::reason::Reason;

use crate::cluster::cluster;
use crate::globals::{SUBNET, uplink_ip};
use crate::skb::Skb;
use crate::verdict::{finish, finish_both, finish_both_by};
use crate::{
    frame_rx, outlets, outside_rx, outside_tx, snat_odd, snat_open, snat_room, snat_rx, snat_tx,
    tracked,
};

/// Egress of the uplink, and of other devices by which packets leave the node.
#[classifier]
pub(crate) fn uplink_tx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = snat_tx::run::<true>(&skb, outlets::usual(&skb), Some(Program::OutsideTx));
    finish(&skb, Program::UplinkTx, outcome)
}

/// Ingress of the same.
#[classifier]
pub(crate) fn uplink_snat_rx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    // Routing need not be symmetric: what left by one device may be answered by another, and what left by the tunnel
    // without one.
    let is_ours = |address: Ipv4| {
        let words = [address, uplink_ip(), overlay_ip()].map(u32::from_ne_bytes);
        words[0] == words[1]
            || words[0] == words[2]
            || !cluster().owns(address) && outlets::is_lent(0, address)
    };
    let outcome = snat_rx::run::<true>(&skb, is_ours, Some(Program::OutsideRx));
    finish(&skb, Program::UplinkSnatRx, outcome)
}

/// Egress of `flannel.<VNI>`, ahead of `overlay_tx`.
#[classifier]
pub(crate) fn overlay_snat_tx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = snat_tx::run::<false>(&skb, overlay_ip(), None);
    finish(&skb, Program::OverlaySnatTx, outcome)
}

/// Ingress of `flannel.<VNI>`.
#[classifier]
pub(crate) fn overlay_snat_rx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = snat_rx::run::<false>(&skb, |address| address == overlay_ip(), None);
    finish(&skb, Program::OverlaySnatRx, outcome)
}

/// The first packet of a flow that leaves.
#[classifier]
pub(crate) fn snat_open(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = snat_open::run(&skb);
    finish(&skb, Program::SnatOpen, outcome)
}

/// What is done first for it, and for connections that come in.
#[classifier]
pub(crate) fn snat_room(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = snat_room::run(&skb);
    finish(&skb, Program::SnatRoom, outcome)
}

/// An ICMP error or a fragment that leaves.
#[classifier]
pub(crate) fn snat_odd_tx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = snat_odd::leaving(&skb);
    finish(&skb, Program::SnatOddTx, outcome)
}

/// An ICMP error or a fragment that arrives.
#[classifier]
pub(crate) fn snat_odd_rx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = snat_odd::arriving(&skb);
    finish(&skb, Program::SnatOddRx, outcome)
}

/// Ingress of a device without Ethernet header, ahead of the others.
#[classifier]
pub(crate) fn frame_rx(ctx: TcContext) -> i32 {
    frame_rx::run(&Skb::new(ctx));
    TC_ACT_UNSPEC
}

/// Egress of such a device. What leaves there never goes past the stack: nothing is to be proven.
#[classifier]
pub(crate) fn uplink_tx_ip(ctx: TcContext) -> i32 {
    let skb = Skb::without_frame(ctx);
    let outcome = snat_tx::run::<true>(&skb, outlets::usual(&skb), None);
    finish(&skb, Program::UplinkTxIp, outcome)
}

#[classifier]
pub(crate) fn snat_open_ip(ctx: TcContext) -> i32 {
    let skb = Skb::without_frame(ctx);
    let outcome = snat_open::run(&skb);
    finish(&skb, Program::SnatOpenIp, outcome)
}

#[classifier]
pub(crate) fn snat_odd_tx_ip(ctx: TcContext) -> i32 {
    let skb = Skb::without_frame(ctx);
    let outcome = snat_odd::leaving(&skb);
    finish(&skb, Program::SnatOddTxIp, outcome)
}

/// A packet that left under our address by way of the stack. `uplink_tx`, which does not get it back, counts it here.
#[classifier]
pub(crate) fn outside_tx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = outside_tx::run(&skb);
    let before = (Program::UplinkTx, Reason::Snat);
    finish_both(&skb, before, Program::OutsideTx, outcome)
}

/// A reply that was translated. The same for `uplink_snat_rx`.
#[classifier]
pub(crate) fn outside_rx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = outside_rx::run(&skb);
    let before = (Program::UplinkSnatRx, Reason::SnatReply);
    let pass = |skb: &Skb| tracked::arrive_again(skb.raw());
    finish_both_by(&skb, before, Program::OutsideRx, outcome, pass)
}

/// The address of `flannel.<VNI>`: the first of our subnet.
#[inline(always)]
fn overlay_ip() -> Ipv4 {
    SUBNET.load().to_be_bytes()
}
