//! The first packet of a flow that leaves.

use flannel_common::header::Ip;
use flannel_common::program::Program;
use flannel_common::reason::Reason;
use flannel_common::snat::{Outbound, ROUNDS, Refused, Whose, open, yield_to_node};

use crate::cluster::cluster;
use crate::node_sockets;
use crate::skb::Skb;
use crate::snat_table::{self, Snat};
use crate::snat_tx::{leave, next, odd, rewrite};
use crate::snat_work::{self, Work};
use crate::verdict::Verdict;

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    let work = snat_work::get().ok_or(Reason::SnatUnready)?;
    work.node.ports = snat_table::ports_of(work.rounds, work.node.device);
    match open_flow() {
        TRANSLATE => {
            if node_sockets::needs_port(skb) {
                return again(skb, work, Reason::SnatExhausted);
            }
            Err(rewrite(skb, work))
        }
        LEAVE => leave(work),
        NO_FLOW => odd(work, Reason::SnatNoFlow),
        EXHAUSTED => again(skb, work, Reason::SnatExhausted),
        _ => refused(work, Reason::SnatFull),
    }
}

const TRANSLATE: u32 = 0;
const LEAVE: u32 = 1;
const NO_FLOW: u32 = 2;
const EXHAUSTED: u32 = 3;
const FULL: u32 = 4;

/// Opens the flow of [`Work::packet`]; the source that it leaves with goes into [`Work::to`].
///
/// A global function, as [`check_sender`](crate::senders::check_sender) is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn open_flow() -> u32 {
    let Some(work) = snat_work::get() else {
        return FULL;
    };
    let exempt = || is_exempt(&work.ip);
    match open(&Snat, &work.node, &work.packet, work.whose, exempt) {
        Ok(Outbound::Translate(to)) => {
            work.to = to;
            TRANSLATE
        }
        Ok(Outbound::Leave) => LEAVE,
        Err(Refused::NoFlow) => NO_FLOW,
        Err(Refused::Exhausted) => EXHAUSTED,
        Err(Refused::Full) => FULL,
    }
}

/// Once more from the top: the verifier would take every further try for another path.
#[inline(always)]
fn again(skb: &Skb, work: &mut Work, reason: Reason) -> Result<Verdict, Reason> {
    if work.rounds + 1 < ROUNDS {
        work.rounds += 1;
        return next(skb, Program::SnatOpen);
    }
    refused(work, reason)
}

/// What the node itself sends goes out, however many flows its pods have.
#[inline(always)]
fn refused(work: &Work, reason: Reason) -> Result<Verdict, Reason> {
    if work.whose == Whose::Own {
        give_way();
        return Ok(Verdict::Untouched);
    }
    Err(reason)
}

/// A global function, as [`check_sender`](crate::senders::check_sender) is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn give_way() -> u32 {
    let Some(work) = snat_work::get() else {
        return 0;
    };
    yield_to_node(&Snat, &work.node, &work.packet);
    1
}

/// Exemptions are for pods' packets to the outside; an outsider's packet to another node's pod must come back here.
#[inline(always)]
pub(crate) fn is_exempt(ip: &Ip) -> bool {
    cluster().has(ip.src) && snat_table::is_exempt(ip.dst)
}
