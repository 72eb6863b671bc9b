//! The hooks where the backend udp has programs of its own; the agent loads them in the place of their namesakes.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use flannel_common::program::Program;

use crate::skb::Skb;
use crate::udp_tx::Udp;
use crate::verdict::finish;
use crate::{pod_tx, udp_rx, udp_tx};

/// Egress of `flannel0`.
#[classifier]
pub(crate) fn overlay_tx_udp(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = udp_tx::run(&skb);
    finish(&skb, Program::OverlayTx, outcome)
}

/// Ingress of `flgro0`.
#[classifier]
pub(crate) fn catch_udp(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = udp_tx::run_last(&skb);
    finish(&skb, Program::OverlayCatch, outcome)
}

/// Ingress of the uplink.
#[classifier]
pub(crate) fn uplink_rx_udp(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = udp_rx::run(&skb);
    finish(&skb, Program::UplinkRx, outcome)
}

/// Ingress of a port of the pod bridge, or of the bridge.
#[classifier]
pub(crate) fn pod_tx_udp(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = pod_tx::run::<Udp>(&skb);
    finish(&skb, Program::PodTx, outcome)
}
