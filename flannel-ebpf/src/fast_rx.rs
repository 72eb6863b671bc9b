//! The receive fast path at the uplink: verified flows go to the pod from here.

use flannel_common::cidr;
use flannel_common::flow::{Direction, Flow, FlowKey, Step};
use flannel_common::reason::Reason;
use flannel_common::transport::{self, Control, TcpTail};

use crate::deliver::{self, Target};
use crate::globals::{NETWORK, NETWORK_MASK, OVERLAY_MTU, SUBNET, SUBNET_MASK};
use crate::skb::Skb;
use crate::uplink_rx::{Tunnelled, check_source};
use crate::verdict::Verdict;
use crate::{decap, flows};

/// `None`: the stack decides; its flow has been noted. The source is checked either way.
#[inline(always)]
pub(crate) fn run(skb: &Skb, packet: &mut Tunnelled) -> Result<Option<Verdict>, Reason> {
    let ip = &packet.inner.ip;
    if !is_between_pods(packet) || transport::check_fast(ip).is_err() {
        check_source(packet)?;
        return Ok(None);
    }
    let tcp = transport::tcp(ip, || skb.load(decap::AT + transport::TCP_TAIL))?;
    if flows::always() {
        return without_proof(skb, packet, tcp);
    }

    let key = FlowKey::inbound(ip, packet.inner.l4);
    let Some(flow) = flows::get(&key) else {
        check_source(packet)?;
        if transport::control(tcp) == Control::None {
            enter(&key, packet, skb.is_gso());
        }
        return Ok(None);
    };
    // The source of a flow that is proven in this epoch was checked when it was proven.
    let epoch = flows::epoch();
    if flow.rx_peer != packet.outer.src || flow.rx.epoch != epoch {
        check_source(packet)?;
        flow.rx_peer = packet.outer.src;
    }
    let Some(target) = judge(skb, packet, &key, flow, tcp, epoch) else {
        return Ok(None);
    };
    decap::strip(skb, packet.outer.tos, &mut packet.inner.ip)?;
    deliver::to_pod(skb, &packet.inner.ip, &target, Reason::FastRx).map(Some)
}

/// Where the packet goes if its flow is proven, and notes what the stack is about to see if not.
#[inline(always)]
fn judge(
    skb: &Skb,
    packet: &Tunnelled,
    key: &FlowKey,
    flow: &mut Flow,
    tcp: Option<TcpTail>,
    epoch: u32,
) -> Option<Target> {
    let ip = &packet.inner.ip;
    let now = flows::now();
    match transport::control(tcp) {
        Control::None => {}
        Control::Open => {
            flow.reopen();
            return None;
        }
        Control::Close => {
            flow.close(now);
            return None;
        }
    }
    if transport::check_size(ip, tcp, skb.gso_size(), OVERLAY_MTU.load()).is_err() {
        return None;
    }
    if !skb.is_gso() {
        if transport::is_full_size(ip, OVERLAY_MTU.load()) {
            flow.bulk = now;
        }
        // All packets of a bulk flow take the pair, lest they overtake one another; `overlay_rx` judges
        // them there, after GRO.
        if flow.is_bulk(now) {
            return None;
        }
    }
    match (
        flow.decide(Direction::Rx, now, epoch, flows::needs_both(key)),
        Target::of(flow),
    ) {
        (Step::Fast, Some(target)) => Some(target),
        _ => {
            flow.note_seen(Direction::Rx, now);
            // Judged: `overlay_rx` must let it reach the stack.
            flow.bulk = 0;
            None
        }
    }
}

#[inline(always)]
fn enter(key: &FlowKey, packet: &Tunnelled, gso: bool) {
    let now = flows::now();
    let mut flow = flows::seen(Direction::Rx, now);
    flow.rx_peer = packet.outer.src;
    if !gso && transport::is_full_size(&packet.inner.ip, OVERLAY_MTU.load()) {
        flow.bulk = now;
    }
    // A full table costs speed, not packets: the stack takes this one anyway.
    let _ = flows::enter(key, &flow);
}

/// `--fast-path=always`: every packet for a pod whose port is known.
#[inline(always)]
fn without_proof(
    skb: &Skb,
    packet: &mut Tunnelled,
    tcp: Option<TcpTail>,
) -> Result<Option<Verdict>, Reason> {
    check_source(packet)?;
    let fits = transport::check_size(&packet.inner.ip, tcp, skb.gso_size(), OVERLAY_MTU.load());
    let target = flows::get(&FlowKey::pod(packet.inner.ip.dst))
        .filter(|flow| flow.rx.epoch == flows::epoch())
        .and_then(|flow| Target::of(flow));
    let (Some(target), Ok(())) = (target, fits) else {
        return Ok(None);
    };
    decap::strip(skb, packet.outer.tos, &mut packet.inner.ip)?;
    deliver::to_pod(skb, &packet.inner.ip, &target, Reason::FastRx).map(Some)
}

#[inline(always)]
fn is_between_pods(packet: &Tunnelled) -> bool {
    let ip = &packet.inner.ip;
    cidr::contains(SUBNET.load(), SUBNET_MASK.load(), ip.dst)
        && cidr::contains(NETWORK.load(), NETWORK_MASK.load(), ip.src)
}
