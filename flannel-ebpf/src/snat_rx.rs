//! Packets that arrive: replies to translated flows find their pod, and connections that come in are noted.

use flannel_common::Ipv4;
use flannel_common::outside;
use flannel_common::program::Program;
use flannel_common::reason::Reason;
use flannel_common::snat::{Entry, Packet, Seen, WAY_IN, decide, inbound};

use crate::clock;
use crate::cluster::cluster;
use crate::globals::UPLINK_IFINDEX;
use crate::skb::Skb;
use crate::snat_fragments::{self, First};
use crate::snat_read::{self, Content};
use crate::snat_table::{self, Snat};
use crate::snat_work::{self, Odd};
use crate::verdict::Verdict;
use crate::{flows, snat_rewrite, tracked};

/// `is_ours` tells the addresses that replies may come to here; `deliver` takes them to the pod if it can. `IS_OUTLET`: it is not the
/// overlay's device, so it may be a bridge, and flows may have more ports there.
#[inline(always)]
pub(crate) fn run<const IS_OUTLET: bool>(
    skb: &Skb,
    is_ours: impl FnOnce(Ipv4) -> bool,
    deliver: Option<Program>,
) -> Result<Verdict, Reason> {
    if !skb.is_ipv4_for_us() || IS_OUTLET && tracked::came_again(skb) || !skb.is_for_host() {
        return Ok(Verdict::Untouched);
    }
    let Some(ip) = snat_read::header(skb) else {
        return Ok(Verdict::Untouched);
    };
    // Would an answer be translated, if nobody knew that it is one?
    let answered = decide(&cluster(), ip.dst, ip.src, 0).translates();
    let to_us = is_ours(ip.dst);
    if !to_us && !answered {
        return Ok(Verdict::Untouched);
    }
    let Some(work) = snat_work::get() else {
        return Ok(Verdict::Untouched);
    };
    work.ip = ip;
    match snat_read::content(skb, work, WAY_IN) {
        Content::Flow => {
            let now = clock::coarse_ns();
            let half = match to_us && may_be_ours::<IS_OUTLET>(&work.packet) {
                true => find_half(now, skb.ifindex()),
                false => 0,
            };
            if half != 0 {
                snat_fragments::remember(work, WAY_IN, First::Translated(work.to.addr));
                let done = snat_rewrite::endpoint(skb, Reason::SnatReply);
                if done == Reason::SnatReply
                    && flows::enabled()
                    && let Some(deliver) = deliver
                    && half == PROVABLE
                {
                    skb.step(deliver.step());
                }
                return match IS_OUTLET {
                    true => tracked::once_more(skb, done),
                    false => Err(done),
                };
            }
            if answered {
                work.odd = Odd::CameIn;
                skb.step(Program::SnatOddRx.step());
            } else if work.ip.is_fragment() {
                work.odd = Odd::First;
                skb.step(Program::SnatOddRx.step());
            }
        }
        Content::Odd if to_us => skb.step(Program::SnatOddRx.step()),
        _ => {}
    }
    Ok(Verdict::Untouched)
}

/// [`find_half`]: a flow's.
const FOUND: u32 = 1;
/// The same, and the flow table may know it.
const PROVABLE: u32 = 2;

/// Whom [`Work::packet`](snat_work::Work::packet) is for, into [`Work::to`](snat_work::Work::to); 0: nobody.
///
/// Whether such a packet may come by another `device` than the uplink is for the stack to say (`rp_filter`, rules about devices): it has
/// shown so of the uplink alone.
///
/// A global function, as [`check_sender`](crate::senders::check_sender) is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_half(now: u64, device: u32) -> u32 {
    let Some(work) = snat_work::get() else {
        return 0;
    };
    let Some(half) = inbound(&Snat, now, &work.packet) else {
        return 0;
    };
    work.to = half.target();
    match device == UPLINK_IFINDEX.load() && may_be_proven(&half, &work.packet, now) {
        true => PROVABLE,
        false => FOUND,
    }
}

/// Whether the flow table may know the flow, or shall. What ends a connection has to reach it after a pause, too.
#[inline(always)]
fn may_be_proven(half: &Entry, packet: &Packet, now: u64) -> bool {
    outside::is_worth_proof(half, now) || packet.bits != Seen::ACK && outside::lasts(half, now)
}

/// Whether the table can know the port at all: one glance instead of a look-up for the node's own traffic.
#[inline(always)]
fn may_be_ours<const HAS_MORE: bool>(packet: &Packet) -> bool {
    let port = packet.key.dst_port;
    !packet.transport.has_port_range()
        || match HAS_MORE {
            true => snat_table::may_have(port),
            false => snat_table::ports_of_both().has(port),
        }
}
