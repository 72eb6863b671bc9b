//! The receive fast path's last step: the frame into the pod.

use flannel_common::crossing::Change;
use flannel_common::flow::{Direction, Flow, FlowKey, Step, Tick};
use flannel_common::globals::POD_HOOK_BRIDGE;
use flannel_common::header::Ip;
use flannel_common::reason::Reason;

use crate::headers::{self, Macs, Packet};
use crate::pod_tx::reason_of_step;
use crate::redirect;
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{crossing, flows};

/// Where the stack delivered the flow before; copied out of the table because the packet changes under it.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    port: u32,
    hook: u8,
    macs: Macs,
    change: Change,
}

impl Target {
    /// `None` until the receive action is known.
    #[inline(always)]
    pub(crate) fn of(flow: &Flow) -> Option<Self> {
        let macs = Macs {
            dst: flow.pod_mac,
            src: flow.gateway_mac,
        };
        (flow.rx.port != 0).then_some(Self {
            port: flow.rx.port,
            hook: flow.hook,
            macs,
            change: flow.rx.change,
        })
    }

    /// Whether the packet is like the one that proved this.
    #[inline(always)]
    pub(crate) fn takes(&self, ip: &Ip, mark: u32) -> bool {
        self.change.is_of(ip, mark)
    }

    /// Of the entry of a [pod](flannel_common::flow::FlowKey::pod), where no proof is asked for: `--fast-path=always`. The
    /// port is looked at anew as a proof is: nobody else would notice, once the agent is gone, that it is another pod's.
    #[inline(always)]
    pub(crate) fn of_pod(pod: &mut Flow, (now, epoch): (Tick, u32)) -> Result<Self, Step> {
        let step = flows::decide(pod, Direction::Rx, now, epoch, false);
        match (step, Self::of(pod)) {
            (Step::Fast, Some(target)) => Ok(target),
            (Step::Refresh, Some(_)) => {
                pod.note_probe(Direction::Rx, now);
                Err(Step::Refresh)
            }
            (Step::Behind, Some(_)) => Err(Step::Behind),
            _ => Err(Step::Stack),
        }
    }
}

/// A packet of a known flow that no tunnel hides any more: to the pod, counted as `fast`, or noted and left to the stack.
/// `both`: see [`Flow::decide`].
#[inline(always)]
pub(crate) fn decided(
    skb: &Skb,
    packet: &Packet,
    (key, flow): (&FlowKey, &mut Flow),
    both: bool,
    (now, epoch): (Tick, u32),
    fast: Reason,
) -> Result<Verdict, Reason> {
    let mut step = Step::Stack;
    if flow.rx.change.is_of(&packet.ip, skb.mark()) {
        step = flows::decide(flow, Direction::Rx, now, epoch, both);
    }
    if let (Step::Fast, Some(target)) = (step, Target::of(flow)) {
        return to_pod(skb, &packet.ip, &target, fast);
    }
    crossing::enters(skb, packet, key, Direction::Rx, (now, epoch));
    if step == Step::Refresh {
        flow.note_probe(Direction::Rx, now);
    }
    Err(reason_of_step(step))
}

/// Rewrites a decapsulated frame as the bridge would have and hands it to the pod. `ip` is the header with which
/// it arrived.
#[inline(always)]
pub(crate) fn to_pod(
    skb: &Skb,
    ip: &Ip,
    target: &Target,
    reason: Reason,
) -> Result<Verdict, Reason> {
    headers::rewrite(skb, target.macs, &target.change.hop(ip))?;
    skb.set_class(target.change.mark, target.change.priority);
    let action = if target.hook == POD_HOOK_BRIDGE {
        redirect::out(target.port)
    } else {
        redirect::peer(target.port)
    };
    Ok(Verdict::Taken(action, reason))
}
