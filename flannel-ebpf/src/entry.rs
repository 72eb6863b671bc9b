//! The hooks. Each entry names its program; [`finish`] counts and turns the outcome into a TC action.

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use flannel_common::program::Program;

use crate::encap::Vxlan;
use crate::skb::Skb;
use crate::verdict::{finish, finish_xdp};
use crate::xdp_frame::Frame;
use crate::{
    anchor_rx, bridge_rx, direct_rx, direct_tx, overlay_rx, overlay_tx, pod_rx, pod_tx, teller,
    uplink_rx, uplink_xdp, xdp_rx,
};

/// Egress of `flannel.<VNI>`.
#[classifier]
pub(crate) fn overlay_tx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = overlay_tx::run::<Vxlan>(&skb);
    finish(&skb, Program::OverlayTx, outcome)
}

/// Ingress of `flgro.<VNI>`: what the first could not take comes out of the pair here.
#[classifier]
pub(crate) fn overlay_catch(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = overlay_tx::run_last::<Vxlan>(&skb);
    finish(&skb, Program::OverlayCatch, outcome)
}

/// Ingress of the uplink.
#[classifier]
pub(crate) fn uplink_rx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = uplink_rx::run(&skb);
    finish(&skb, Program::UplinkRx, outcome)
}

/// Ingress of a port of the pod bridge, or of the bridge.
#[classifier]
pub(crate) fn pod_tx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = pod_tx::run::<Vxlan>(&skb);
    finish(&skb, Program::PodTx, outcome)
}

/// Egress of a port of the pod bridge, or of the bridge.
#[classifier]
pub(crate) fn pod_rx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = pod_rx::run(&skb);
    finish(&skb, Program::PodRx, outcome)
}

/// Egress of the pod bridge.
#[classifier]
pub(crate) fn bridge_rx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = bridge_rx::run(&skb);
    finish(&skb, Program::BridgeRx, outcome)
}

/// Ingress of the anchor, with `--gro=anchor`.
#[classifier]
pub(crate) fn anchor_rx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = anchor_rx::run(&skb);
    finish(&skb, Program::AnchorRx, outcome)
}

/// Ingress of `flannel.<VNI>`.
#[classifier]
pub(crate) fn overlay_rx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = overlay_rx::run(&skb);
    finish(&skb, Program::OverlayRx, outcome)
}

/// Ingress of the uplink, where peers are reached without a tunnel.
#[classifier]
pub(crate) fn direct_rx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = direct_rx::run(&skb);
    finish(&skb, Program::DirectRx, outcome)
}

/// Egress of the uplink, where peers are reached without a tunnel.
#[classifier]
pub(crate) fn direct_tx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = direct_tx::run(&skb);
    finish(&skb, Program::DirectTx, outcome)
}

/// No hook: where the others end while somebody listens.
#[classifier]
pub(crate) fn tell(ctx: TcContext) -> i32 {
    teller::run(&Skb::new(ctx))
}

/// The uplink's driver, with `--xdp`.
#[xdp]
pub(crate) fn uplink_xdp(ctx: XdpContext) -> u32 {
    let frame = Frame::new(ctx);
    let outcome = uplink_xdp::run(&frame);
    finish_xdp(&frame, outcome)
}

/// Ingress of the uplink, ahead of `uplink_rx`, with `--xdp`.
#[classifier]
pub(crate) fn xdp_rx(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = xdp_rx::run(&skb);
    finish(&skb, Program::XdpRx, outcome)
}
