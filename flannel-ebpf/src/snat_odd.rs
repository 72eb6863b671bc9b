//! What is no packet of a translated flow: ICMP errors, fragments behind the first, connections that come in.

use flannel_common::program::Program;
use flannel_common::reason::Reason;
use flannel_common::snat::{Outbound, WAY_IN, WAY_OUT, Whose, note};

use crate::clock;
use crate::cluster::cluster;
use crate::redirect;
use crate::skb::Skb;
use crate::snat_fragments::First;
use crate::snat_open::is_exempt;
use crate::snat_table::Snat;
use crate::snat_tx::{knows_pods, leave, odd};
use crate::snat_work::{self, Odd, Work};
use crate::verdict::Verdict;
use crate::{flows, outlets, snat_fragments, snat_icmp, snat_rewrite, snat_room, tracked};

#[inline(always)]
pub(crate) fn leaving(skb: &Skb) -> Result<Verdict, Reason> {
    let work = snat_work::get().ok_or(Reason::SnatUnready)?;
    // Its flows are left alone, see `snat_room`.
    if work.whose == Whose::Pod && !cluster().owns(work.ip.src) && outlets::is_of_another(skb) {
        return leave(work);
    }
    match work.odd {
        Odd::Error | Odd::Redirect => error_leaves(skb, work),
        Odd::Neither => odd(work, Reason::SnatNoFlow),
        Odd::Follower | Odd::First | Odd::CameIn => follower_leaves(skb, work),
    }
}

/// An error a pod, or the node for it, sends about a packet that came in. A redirect about a translated flow goes nowhere, as in
/// netfilter (`nf_nat_icmp_reply_translation`): it would bring both ends together past the translation.
#[inline(always)]
fn error_leaves(skb: &Skb, work: &mut Work) -> Result<Verdict, Reason> {
    if !snat_icmp::read(skb, work) {
        return odd(work, Reason::SnatMalformed);
    }
    match snat_icmp::flow(work, WAY_OUT) {
        Some(Outbound::Translate(_)) if matches!(work.odd, Odd::Redirect) => {
            Err(Reason::SnatRedirect)
        }
        Some(Outbound::Translate(to)) => {
            work.to = to;
            let mut done = snat_icmp::translate(skb, work, WAY_OUT);
            if done == Reason::SnatError && cluster().has(work.ip.src) {
                done = snat_rewrite::address(skb, work, true, to.addr, done);
            }
            Err(done)
        }
        Some(Outbound::Leave) => leave(work),
        // The node may speak of a pod's packet in its own name; the pod's address is in there all the same. Other pods
        // and nodes are told: what goes to them was never translated.
        None if cluster().has(work.embedded.ip.dst) && !knows_pods(work.ip.dst) => {
            Err(Reason::SnatNoFlow)
        }
        None => odd(work, Reason::SnatNoFlow),
    }
}

/// The first fragment may still come, or have been lost: a pod's follower is sent as the node in any case,
/// which is right for all but the replies of connections that came in, and flows that began on another way.
#[inline(always)]
fn follower_leaves(skb: &Skb, work: &Work) -> Result<Verdict, Reason> {
    if work.whose == Whose::Own {
        return Ok(Verdict::Untouched);
    }
    if is_exempt(&work.ip) {
        return Err(Reason::SnatKept);
    }
    let address = match snat_fragments::recall(work, WAY_OUT) {
        Some(First::Left) => return Err(Reason::SnatKept),
        Some(First::Translated(address)) => address,
        None => outlets::fitting(skb, work),
    };
    Err(snat_rewrite::address(
        skb,
        work,
        true,
        address,
        Reason::Snat,
    ))
}

#[inline(always)]
pub(crate) fn arriving(skb: &Skb) -> Result<Verdict, Reason> {
    let Some(work) = snat_work::get() else {
        return Ok(Verdict::Untouched);
    };
    match work.odd {
        Odd::Error | Odd::Redirect => error_arrives(skb, work),
        Odd::Neither => Ok(Verdict::Untouched),
        Odd::Follower => follower_arrives(skb, work),
        Odd::First => {
            snat_fragments::remember(work, WAY_IN, First::Left);
            Ok(Verdict::Untouched)
        }
        Odd::CameIn => {
            if note(&Snat, clock::coarse_ns(), &work.packet) {
                work.after = snat_room::CAME_IN;
                skb.step(Program::SnatRoom.step());
            }
            Ok(Verdict::Untouched)
        }
    }
}

/// An error about a packet that left under our address.
#[inline(always)]
fn error_arrives(skb: &Skb, work: &mut Work) -> Result<Verdict, Reason> {
    if !snat_icmp::read(skb, work) {
        return Ok(Verdict::Untouched);
    }
    let Some(Outbound::Translate(to)) = snat_icmp::flow(work, WAY_IN) else {
        return Ok(Verdict::Untouched);
    };
    if matches!(work.odd, Odd::Redirect) {
        return Err(Reason::SnatRedirect);
    }
    work.to = to;
    let done = match snat_icmp::translate(skb, work, WAY_IN) {
        Reason::SnatError => snat_rewrite::address(skb, work, false, to.addr, Reason::SnatError),
        failed => failed,
    };
    tracked::once_more(skb, done)
}

/// How often a follower whose first fragment has not come yet goes back to the end of the CPU's queue. The first is
/// most often right behind it, or on its way through another CPU; and a flood of followers must not keep the CPU busy.
const PATIENCE: u32 = 8;

/// How many followers a CPU sends back in a tick. Anybody can send fragments to the node's address, and each that waits is
/// received once more, by way of a queue that loopback and veths share.
const WAITS: u32 = 32;

/// A follower whose first fragment does not come is left to the node, like any packet nobody knows.
#[inline(always)]
fn follower_arrives(skb: &Skb, work: &mut Work) -> Result<Verdict, Reason> {
    let passes = skb.passes();
    match snat_fragments::recall(work, WAY_IN) {
        Some(First::Translated(addr)) => {
            let done = snat_rewrite::address(skb, work, false, addr, Reason::SnatReply);
            tracked::once_more(skb, done)
        }
        None if passes < PATIENCE && work.waits.spend(flows::now(), WAITS) => {
            skb.set_passes(passes + 1);
            Ok(Verdict::Again(redirect::ingress(skb.ifindex())))
        }
        _ => Ok(Verdict::Untouched),
    }
}
