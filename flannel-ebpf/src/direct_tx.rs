//! What leaves by the uplink to peers without a tunnel: the stack let it through, which proves its flow.

use core::mem::MaybeUninit;

use flannel_common::flow::{Direction, FlowKey};
use flannel_common::globals::FAST_MARK;
use flannel_common::maps::PEER_DIRECT;
use flannel_common::reason::Reason;
use flannel_common::transport;

use crate::headers;
use crate::pod_tx::leaves_for_overlay;
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{flows, ours, peers};

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    // Came past the stack: it was proven before, and proves nothing.
    if skb.mark() == FAST_MARK {
        skb.clear_mark();
        return Ok(Verdict::Untouched);
    }
    if !flows::enabled() || flows::always() || !skb.is_ipv4() {
        return Ok(Verdict::Untouched);
    }
    let mut room = MaybeUninit::uninit();
    let Some(packet) = headers::load(skb, headers::IP, &mut room) else {
        return Ok(Verdict::Untouched);
    };
    if !leaves_for_overlay(packet) || transport::check_fast(&packet.ip).is_err() {
        return Ok(Verdict::Untouched);
    }
    let epoch = flows::epoch();
    let Some(peer) = peers::of(packet.ip.dst).filter(|peer| peer.kind == PEER_DIRECT) else {
        return Ok(Verdict::Untouched);
    };
    let Some(flow) = flows::get(&FlowKey::outbound(&packet.ip, &packet.l4)) else {
        return Ok(Verdict::Untouched);
    };
    let now = flows::now();
    if !flow.may_pass(Direction::Tx, now) {
        return Ok(Verdict::Untouched);
    }
    ours::check(skb)?;
    flow.peer = *peer;
    flow.note_passed(Direction::Tx, now, epoch);
    Err(Reason::Verified)
}
