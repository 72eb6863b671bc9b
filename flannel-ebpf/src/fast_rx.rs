//! The receive fast path: where a decapsulated packet goes if its flow is proven.

use flannel_common::Ipv4;
use flannel_common::cidr;
use flannel_common::flow::{Direction, Flow, FlowKey, REFRESH, Step, Tick};
use flannel_common::header::Ip;
use flannel_common::reason::Reason;
use flannel_common::transport::{self, Control, TcpTail};

use crate::deliver::Target;
use crate::flows;
use crate::globals::{BULK_LEN, NETWORK, NETWORK_MASK, OVERLAY_MTU, SUBNET, SUBNET_MASK};
use crate::skb::Skb;
use crate::tunnelled::{Tunnelled, check_source};

const NOBODY: Ipv4 = [0; 4];

/// Whether GRO has had its chance with the packets of a bulk flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merged {
    /// The outer headers kept it from merging: bulk goes through the pair first.
    NotYet,
    Already,
}

/// Where a decapsulated packet goes.
pub(crate) enum Destination {
    /// Past the stack.
    Pod(Target),
    /// The stack decides.
    Stack,
    /// The same, and nothing of this flow is on the pair that the packet could overtake.
    StackAtOnce,
}

/// Checks the source, and decides.
#[inline(always)]
pub(crate) fn destination(
    skb: &Skb,
    packet: &Tunnelled<'_>,
    merged: Merged,
) -> Result<Destination, Reason> {
    let ip = &packet.inner.ip;
    if !is_between_pods(packet) || transport::check_fast(ip).is_err() {
        check_source(packet)?;
        return Ok(Destination::Stack);
    }
    if flows::always() {
        check_source(packet)?;
        // What is too short for its header is the pod's to drop, and not worth a way by the agent's socket.
        let Ok(tcp) = transport::tcp(ip, &packet.inner.l4) else {
            return Ok(Destination::Stack);
        };
        return Ok(without_proof(skb, packet, tcp));
    }
    let key = FlowKey::inbound(ip, &packet.inner.l4);
    let known = flows::get(&key);
    let epoch = flows::epoch();
    // The source of a flow that is proven in this epoch was checked when it was proven.
    // Whether the host's firewall still takes them is asked where the proof is renewed.
    let now = flows::now();
    let trusted = |flow: &&mut Flow| {
        flow.rx_peer == packet.outer_src
            // Before the first packet it is nobody's, and such an address can be forged.
            && packet.outer_src != NOBODY
            && flow.rx.epoch == epoch
            && now.wrapping_sub(flow.rx.verified) < REFRESH
    };
    if !known.as_ref().is_some_and(trusted) {
        check_source(packet)?;
    }
    let Ok(tcp) = transport::tcp(ip, &packet.inner.l4) else {
        return Ok(Destination::Stack);
    };
    let control = transport::control(tcp);
    let Some(flow) = known else {
        return Ok(Destination::Stack);
    };
    if flow.rx_peer != packet.outer_src {
        flow.rx_peer = packet.outer_src;
    }
    Ok(match control {
        Control::None => judge(skb, packet, &key, flow, tcp, (now, epoch), merged),
        Control::Open | Control::Answer => {
            flow.reopen();
            Destination::Stack
        }
        Control::Close => {
            let fast = flows::decide(flow, Direction::Rx, now, epoch, true) != Step::Stack;
            let destination = past_the_pair(fast && !flow.is_bulk(now));
            flow.close(now);
            destination
        }
    })
}

/// What came before went to the pod at once, if the flow is fast without the pair.
#[inline(always)]
fn past_the_pair(fast: bool) -> Destination {
    if fast {
        Destination::StackAtOnce
    } else {
        Destination::Stack
    }
}

#[inline(always)]
fn judge(
    skb: &Skb,
    packet: &Tunnelled<'_>,
    key: &FlowKey,
    flow: &mut Flow,
    tcp: Option<TcpTail>,
    (now, epoch): (Tick, u32),
    merged: Merged,
) -> Destination {
    if transport::check_size(&packet.inner.ip, tcp, skb.gso_size(), OVERLAY_MTU.load()).is_err() {
        return Destination::Stack;
    }
    if merged == Merged::NotYet && !skb.is_gso() {
        if is_full_size(packet) {
            flow.bulk = now;
        }
        // All packets of a bulk flow take the pair, lest they overtake one another; `overlay_rx` judges
        // them there, after GRO.
        if flow.is_bulk(now) {
            return Destination::Stack;
        }
    }
    let step = flows::decide(flow, Direction::Rx, now, epoch, flows::needs_both(key));
    if let (Step::Fast, Some(target)) = (step, Target::of(flow))
        && target.takes(&packet.inner.ip, packet.mark(skb))
    {
        return Destination::Pod(target);
    }
    // Judged: `overlay_rx` must let it reach the stack, and notes that it does.
    flow.bulk = 0;
    if step == Step::Refresh {
        flow.note_probe(Direction::Rx, now);
    }
    past_the_pair(step == Step::Refresh || step == Step::Behind)
}

/// `--fast-path=always`: every packet for a pod whose port is known.
#[inline(always)]
fn without_proof(skb: &Skb, packet: &Tunnelled<'_>, tcp: Option<TcpTail>) -> Destination {
    if transport::check_size(&packet.inner.ip, tcp, skb.gso_size(), OVERLAY_MTU.load()).is_err() {
        return Destination::Stack;
    }
    // Rules may go by it, and nobody has shown that they do not.
    if packet.mark.is_some_and(|mark| mark != 0) {
        return Destination::Stack;
    }
    let Some(pod) = flows::get(&FlowKey::pod(packet.inner.ip.dst)) else {
        return Destination::Stack;
    };
    match Target::of_pod(pod, (flows::now(), flows::epoch())) {
        Ok(target) => Destination::Pod(target),
        Err(step) => past_the_pair(step != Step::Stack),
    }
}

#[inline(always)]
fn is_full_size(packet: &Tunnelled<'_>) -> bool {
    transport::is_full_size(&packet.inner.ip, BULK_LEN.load())
}

#[inline(always)]
fn is_between_pods(packet: &Tunnelled<'_>) -> bool {
    is_for_pod_of_ours(&packet.inner.ip)
}

/// From a pod elsewhere, or what comes in a pod's name, to one of ours.
#[inline(always)]
pub(crate) fn is_for_pod_of_ours(ip: &Ip) -> bool {
    cidr::contains(SUBNET.load(), SUBNET_MASK.load(), ip.dst)
        && cidr::contains(NETWORK.load(), NETWORK_MASK.load(), ip.src)
}
