//! What arrives at the uplink from peers without a tunnel: verified flows go to the pod from here.

use core::mem::MaybeUninit;

use flannel_common::flow::{Direction, Flow, FlowKey, Step, Tick};
use flannel_common::maps::PEER_DIRECT;
use flannel_common::reason::Reason;
use flannel_common::transport::{self, Control};

use crate::deliver::{self, Target};
use crate::globals::OVERLAY_MTU;
use crate::headers::{self, Packet};
use crate::pod_rx::came_from_overlay;
use crate::pod_tx::{reason_of, reason_of_step};
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{crossing, flows, ours, peers};

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
    let key = FlowKey::inbound(&packet.ip, &packet.l4);
    let (now, epoch) = (flows::now(), flows::epoch());
    if flows::always() {
        check_source(packet)?;
        let step = match without_proof(packet, (now, epoch)) {
            Ok(target) => return deliver::to_pod(skb, &packet.ip, &target, Reason::FastRx),
            Err(step) => step,
        };
        crossing::enters(skb, packet, &key, Direction::Rx, (now, epoch));
        return Err(reason_of_step(step));
    }

    let Some(flow) = flows::get(&key) else {
        check_source(packet)?;
        if let Control::Open | Control::Close = control {
            return Err(Reason::TcpControl);
        }
        crossing::enters(skb, packet, &key, Direction::Rx, (now, epoch));
        return Err(reason_of(control));
    };
    // The source of a flow that came this way in this epoch was checked then.
    if flow.rx_peer != packet.ip.src || flow.rx.epoch != epoch {
        check_source(packet)?;
        flow.rx_peer = packet.ip.src;
    }
    judge(skb, packet, control, (&key, flow), (now, epoch))
}

/// A packet of a known flow whose source was checked.
#[inline(always)]
pub(crate) fn judge(
    skb: &Skb,
    packet: &Packet,
    control: Control,
    (key, flow): (&FlowKey, &mut Flow),
    at: (Tick, u32),
) -> Result<Verdict, Reason> {
    if flow.control(control, at.0) {
        if control == Control::Answer {
            crossing::enters(skb, packet, key, Direction::Rx, at);
        }
        return Err(Reason::TcpControl);
    }
    let both = flows::needs_both(key);
    deliver::decided(skb, packet, (key, flow), both, at, Reason::FastRx)
}

/// `--fast-path=always`: every packet for a pod whose port is known.
#[inline(always)]
fn without_proof(packet: &Packet, at: (Tick, u32)) -> Result<Target, Step> {
    let pod = flows::get(&FlowKey::pod(packet.ip.dst)).ok_or(Step::Stack)?;
    Target::of_pod(pod, at)
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
