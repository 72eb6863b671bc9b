//! The hooks where the backend ipip has programs of its own; the agent loads them in the place of their namesakes.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use flannel_common::program::Program;

use crate::ipip_tx::Ipip;
use crate::skb::Skb;
use crate::verdict::finish;
use crate::{ipip_rx, overlay_tx, pod_tx};

/// Egress of `flannel.ipip`.
#[classifier]
pub(crate) fn overlay_tx_ipip(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = overlay_tx::run::<Ipip>(&skb);
    finish(&skb, Program::OverlayTx, outcome)
}

/// Ingress of `flgro.ipip`.
#[classifier]
pub(crate) fn catch_ipip(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = overlay_tx::run_last::<Ipip>(&skb);
    finish(&skb, Program::OverlayCatch, outcome)
}

/// Ingress of the uplink.
#[classifier]
pub(crate) fn uplink_rx_ipip(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = ipip_rx::run(&skb);
    finish(&skb, Program::UplinkRx, outcome)
}

/// Ingress of a port of the pod bridge, or of the bridge.
#[classifier]
pub(crate) fn pod_tx_ipip(ctx: TcContext) -> i32 {
    let skb = Skb::new(ctx);
    let outcome = pod_tx::run::<Ipip>(&skb);
    finish(&skb, Program::PodTx, outcome)
}
