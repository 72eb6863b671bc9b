//! The receive fast path's last step: the frame into the pod.

use flannel_common::flow::{Direction, Flow, Step, Tick};
use flannel_common::globals::POD_HOOK_BRIDGE;
use flannel_common::header::Ip;
use flannel_common::reason::Reason;
use flannel_common::ttl;

use crate::headers::{self, Macs};
use crate::skb::{self, Skb};
use crate::verdict::Verdict;

/// Where the stack delivered the flow before; copied out of the table because the packet changes under it.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    port: u32,
    hook: u8,
    macs: Macs,
}

impl Target {
    /// `None` until the receive action is known.
    #[inline(always)]
    pub(crate) fn of(flow: &Flow) -> Option<Self> {
        let macs = Macs {
            dst: flow.pod_mac,
            src: flow.gateway_mac,
        };
        (flow.port != 0).then_some(Self {
            port: flow.port,
            hook: flow.hook,
            macs,
        })
    }

    /// Of the entry of a [pod](flannel_common::flow::FlowKey::pod), where no proof is asked for; what `Flow::has_port`
    /// says to those who show it.
    #[inline(always)]
    pub(crate) fn of_pod(pod: &Flow, epoch: u32) -> Option<Self> {
        if pod.rx.epoch == epoch {
            Self::of(pod)
        } else {
            None
        }
    }
}

/// What `flow`'s state says at `now`: to the pod, counted as `fast`, or noted and left to the stack.
#[inline(always)]
pub(crate) fn decided(
    skb: &Skb,
    ip: &Ip,
    flow: &mut Flow,
    (step, now): (Step, Tick),
    fast: Reason,
) -> Result<Verdict, Reason> {
    if let (Step::Fast, Some(target)) = (step, Target::of(flow)) {
        return to_pod(skb, ip, &target, fast);
    }
    flow.note_seen(Direction::Rx, now);
    Err(match step {
        Step::Refresh => Reason::Refresh,
        Step::Fast | Step::Stack => Reason::Unverified,
    })
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
    headers::rewrite(skb, target.macs, &ttl::decremented(ip))?;
    skb.clear_mark();
    let action = if target.hook == POD_HOOK_BRIDGE {
        skb::redirect(target.port)
    } else {
        skb::redirect_peer(target.port)
    };
    Ok(Verdict::Taken(action, reason))
}
