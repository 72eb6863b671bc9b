//! Replies from outside the cluster that `uplink_snat_rx` translated: verified flows go to the pod from here.

use core::mem::MaybeUninit;

use flannel_common::flow::FlowKey;
use flannel_common::reason::Reason;
use flannel_common::transport::{self, Control};

use crate::direct_rx::judge;
use crate::globals::OVERLAY_MTU;
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{flows, headers};

/// That it was translated, at the uplink, proves where it comes from: whom a pod of ours talks to.
#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    skb.untag();
    let mut room = MaybeUninit::uninit();
    let Some(packet) = headers::load(skb, headers::IP, &mut room) else {
        return Ok(Verdict::Untouched);
    };
    transport::check_fast(&packet.ip)?;
    let tcp = transport::tcp(&packet.ip, &packet.l4)?;
    let key = FlowKey::inbound(&packet.ip, &packet.l4);
    let Some(flow) = flows::get(&key) else {
        return Ok(Verdict::Untouched);
    };
    let at = (flows::now(), flows::epoch());
    let control = transport::control(tcp);
    let size = transport::check_size(&packet.ip, tcp, skb.gso_size(), OVERLAY_MTU.load());
    if control == Control::None {
        size?;
    }
    judge(skb, packet, control, (&key, flow), at)
}
