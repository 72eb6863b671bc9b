//! Packets that leave: flannel's table decides who is translated, [`flannel_common::snat`] to what.

use core::mem::MaybeUninit;

use flannel_common::Ipv4;
use flannel_common::cidr;
use flannel_common::header::{PROTO_ICMP, PROTO_IPIP, PROTO_UDP, VERSION_IHL};
use flannel_common::outside;
use flannel_common::program::Program;
use flannel_common::reason::Reason;
use flannel_common::snat::{
    Entry, Outbound, Seen, Transport, WAY_OUT, Whose, decide, is_icmp_error, known,
};

use crate::cluster::cluster;
use crate::globals::{self, VXLAN_PORT};
use crate::skb::Skb;
use crate::snat_fragments::{self, First};
use crate::snat_read::{self, Content};
use crate::snat_table::{self, Snat};
use crate::snat_work::{self, Odd, Work};
use crate::verdict::Verdict;
use crate::{flows, forged, headers, outlets, snat_rewrite};

/// `local` is the address that most packets get on this device; `proves` is told of those that the stack let out. `LEAVES_NODE`: not by the
/// tunnel.
#[inline(always)]
pub(crate) fn run<const LEAVES_NODE: bool>(
    skb: &Skb,
    local: Ipv4,
    proves: Option<Program>,
) -> Result<Verdict, Reason> {
    if !skb.is_ipv4() {
        return Ok(Verdict::Untouched);
    }
    // No sender the stack knows of makes such a frame; it might hold a pod's address all the same.
    let mut room = MaybeUninit::uninit();
    let headers = headers::load(skb, headers::IP, &mut room).ok_or(Reason::SnatMalformed)?;
    let ip = &headers.ip;
    let is_local = ip.src == local;
    let mut whose = Whose::Pod;
    if is_local || !decide(&cluster(), ip.src, ip.dst, skb.mark()).translates() {
        whose = Whose::Own;
        if !is_local && cluster().has(ip.src) {
            return Ok(Verdict::Untouched);
        }
        if LEAVES_NODE {
            forged::check_sent(skb, headers)?;
        }
        if !is_error(headers)
            && (never_clashes(headers) || !is_local && !outlets::is_lent(skb.ifindex(), ip.src))
        {
            return Ok(Verdict::Untouched);
        }
    }
    let work = snat_work::get().ok_or(Reason::SnatUnready)?;
    work.ip = headers.ip;
    work.node = snat_table::node(skb, local);
    work.whose = whose;
    if whose == Whose::Own {
        work.node.local = ip.src;
    }
    work.rounds = 0;
    work.elsewhere = false;
    work.missing = skb.missing();
    // Taken off here: `direct_tx` is not on every uplink.
    work.past_stack = whose == Whose::Pod && skb.take_past_stack();
    match snat_read::content(skb, work, WAY_OUT) {
        Content::Flow => flow(skb, work, proves),
        Content::Odd => next(skb, Program::SnatOddTx),
        Content::Neither => {
            work.odd = Odd::Neither;
            next(skb, Program::SnatOddTx)
        }
        Content::Cut => odd(work, Reason::SnatMalformed),
    }
}

#[inline(always)]
fn flow(skb: &Skb, work: &mut Work, proves: Option<Program>) -> Result<Verdict, Reason> {
    match find_known() {
        TRANSLATE => {
            let done = rewrite(skb, work);
            if done == Reason::Snat
                && let Some(proves) = proves
                && may_prove(work)
            {
                skb.step(proves.step());
            }
            Err(done)
        }
        LEAVE => leave(work),
        _ => {
            work.after = skb.fitting(Program::SnatOpen).step();
            next(skb, Program::SnatRoom)
        }
    }
}

/// [`find_known`]: part of a translated flow.
const TRANSLATE: u32 = 1;
/// One that leaves as it is.
const LEAVE: u32 = 2;

/// As whom [`Work::packet`] leaves, into [`Work::to`]; 0: it begins a flow.
///
/// A global function, as [`check_sender`](crate::senders::check_sender) is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_known() -> u32 {
    let Some(work) = snat_work::get() else {
        return 0;
    };
    let (now, worth) = (work.node.now, &mut work.worth_proof);
    let before = |half: &Entry| *worth = outside::is_worth_proof(half, now);
    match known(&Snat, &work.node, &work.packet, work.whose, before) {
        // Where it goes has become a node since the flow began: `snat_room` drops it.
        Some(Outbound::Translate(_)) if forged::check_flow(work).is_err() => 0,
        Some(Outbound::Translate(to)) => {
            work.to = to;
            TRANSLATE
        }
        Some(Outbound::Leave) => LEAVE,
        None => 0,
    }
}

/// A packet in the middle of a flow that came by way of the stack, and is worth it.
#[inline(always)]
fn may_prove(work: &Work) -> bool {
    let packet = &work.packet;
    flows::enabled()
        && work.whose == Whose::Pod
        && !work.past_stack
        && packet.bits == Seen::ACK
        && matches!(packet.transport, Transport::Tcp | Transport::Udp)
        && work.worth_proof
}

/// The packet gets the source [`Work::to`], and so will the fragments behind it.
#[inline(always)]
pub(crate) fn rewrite(skb: &Skb, work: &Work) -> Reason {
    snat_fragments::remember(work, WAY_OUT, First::Translated(work.to.addr));
    snat_rewrite::endpoint(skb, Reason::Snat)
}

/// Goes on in another program.
#[inline(always)]
pub(crate) fn next(skb: &Skb, step: Program) -> Result<Verdict, Reason> {
    skb.step(skb.fitting(step).step());
    Err(Reason::SnatUnready)
}

/// The packet goes as it is.
#[inline(always)]
pub(crate) fn leave(work: &Work) -> Result<Verdict, Reason> {
    if work.whose == Whose::Own {
        return Ok(Verdict::Untouched);
    }
    snat_fragments::remember(work, WAY_OUT, First::Left);
    Err(Reason::SnatKept)
}

/// A packet that cannot be translated. What the node sends by itself is never dropped for being odd. Nor is what belongs to
/// no flow, if it goes to those who know the pods anyway: the kernel's NAT, too, has no hand in what conntrack finds
/// invalid.
#[inline(always)]
pub(crate) fn odd(work: &Work, reason: Reason) -> Result<Verdict, Reason> {
    match work.whose {
        Whose::Own => Ok(Verdict::Untouched),
        Whose::Pod if reason == Reason::SnatNoFlow && knows_pods(work.ip.dst) => {
            Err(Reason::SnatKept)
        }
        Whose::Pod => Err(reason),
    }
}

/// Whether whoever has this address may see a pod's: part of the cluster, or exempt.
#[inline(always)]
pub(crate) fn knows_pods(addr: Ipv4) -> bool {
    cluster().has(addr) || snat_table::is_exempt(addr)
}

/// Whether it is an ICMP error. That may speak of a translated flow whoever signs it: the node by another of its addresses (a preferred source
/// on the loopback device, a second uplink's), or a host behind it. In there is the pod's address.
#[inline(always)]
fn is_error(headers: &headers::Packet) -> bool {
    let ip = &headers.ip;
    speaks_of_another(u32::from_ne_bytes([
        ip.proto,
        ip.version_ihl,
        headers.l4[0],
        0,
    ])) != 0
}

/// A global function, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn speaks_of_another(what: u32) -> u32 {
    let [proto, version_ihl, kind, _] = what.to_ne_bytes();
    u32::from(proto == PROTO_ICMP && version_ihl == VERSION_IHL && is_icmp_error(kind))
}

/// Whether a packet under our own address can be told at a glance to use no port a pod could have:
/// above all the tunnel's packets, which all come by here.
#[inline(always)]
fn never_clashes(headers: &headers::Packet) -> bool {
    let ip = &headers.ip;
    if cidr::is_not_unicast(ip.dst) || globals::is_ipip() && ip.proto == PROTO_IPIP {
        return true;
    }
    if ip.version_ihl != VERSION_IHL || !Transport::of(ip.proto).has_port_range() {
        return false;
    }
    let l4 = &headers.l4;
    if ip.proto == PROTO_UDP && [l4[2], l4[3]] == VXLAN_PORT.load().to_be_bytes() {
        return true;
    }
    ip.fragment_offset() == 0 && !snat_table::ports_of_both().has([l4[0], l4[1]])
}
