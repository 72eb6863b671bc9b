//! What arrives at the uplink from peers without a tunnel: verified flows go to the pod from here.

use core::mem::MaybeUninit;

use flannel_common::flow::{Direction, Flow, FlowKey};
use flannel_common::maps::PEER_DIRECT;
use flannel_common::reason::Reason;
use flannel_common::transport::{self, Control};

use crate::deliver::{self, Target};
use crate::globals::OVERLAY_MTU;
use crate::headers::{self, Packet};
use crate::pod_rx::came_from_overlay;
use crate::pod_tx::reason_of;
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{flows, ours, peers};

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    if !flows::enabled() || !skb.is_ipv4_for_us() || !skb.is_for_host() {
        return Ok(Verdict::Untouched);
    }
    let mut room = MaybeUninit::uninit();
    let Some(packet) = headers::load(skb, headers::IP, &mut room) else {
        return Ok(Verdict::Untouched);
    };
    if !came_from_overlay(packet) {
        return Ok(Verdict::Untouched);
    }
    ours::check(skb)?;
    skb.untag();
    transport::check_fast(&packet.ip)?;
    let tcp = transport::tcp(&packet.ip, &packet.l4)?;
    transport::check_size(&packet.ip, tcp, skb.gso_size(), OVERLAY_MTU.load())?;
    let control = transport::control(tcp);
    if flows::always() {
        check_source(packet)?;
        return without_proof(skb, packet);
    }

    let key = FlowKey::inbound(&packet.ip, &packet.l4);
    let Some(flow) = flows::get(&key) else {
        check_source(packet)?;
        if let Control::Open | Control::Close = control {
            return Err(Reason::TcpControl);
        }
        let mut flow = flows::seen(Direction::Rx, flows::now());
        flow.rx_peer = packet.ip.src;
        flows::enter(&key, &flow)?;
        return Err(reason_of(control));
    };
    // The source of a flow that came this way in this epoch was checked then.
    let epoch = flows::epoch();
    if flow.rx_peer != packet.ip.src || flow.rx.epoch != epoch {
        check_source(packet)?;
        flow.rx_peer = packet.ip.src;
    }
    if flow.control(Direction::Rx, control, flows::now()) {
        return Err(Reason::TcpControl);
    }
    judge(skb, packet, &key, flow, epoch)
}

/// A packet of a known flow whose source was checked.
#[inline(always)]
pub(crate) fn judge(
    skb: &Skb,
    packet: &Packet,
    key: &FlowKey,
    flow: &mut Flow,
    epoch: u32,
) -> Result<Verdict, Reason> {
    let now = flows::now();
    let step = flow.decide(Direction::Rx, now, epoch, flows::needs_both(key));
    deliver::decided(skb, &packet.ip, flow, (step, now), Reason::FastRx)
}

/// `--fast-path=always`: every packet for a pod whose port is known.
#[inline(always)]
fn without_proof(skb: &Skb, packet: &Packet) -> Result<Verdict, Reason> {
    let pod = flows::get(&FlowKey::pod(packet.ip.dst)).ok_or(Reason::Unverified)?;
    let target = Target::of_pod(pod, flows::epoch()).ok_or(Reason::Unverified)?;
    deliver::to_pod(skb, &packet.ip, &target, Reason::FastRx)
}

/// Whether a peer's pod sent it that is meant to come without a tunnel. About others the stack, which knows
/// `rp_filter`, decides.
#[inline(always)]
fn check_source(packet: &Packet) -> Result<(), Reason> {
    match peers::of(packet.ip.src) {
        Some(peer) if peer.kind == PEER_DIRECT => Ok(()),
        _ => Err(Reason::Unverified),
    }
}
