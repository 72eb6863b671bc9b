//! ICMP errors: whose packet they carry, and both translated.

use flannel_common::header::{Ip, PROTO_TCP};
use flannel_common::reason::Reason;
use flannel_common::snat::{Outbound, find, rewrite};

use crate::skb::{Refused, Skb};
use crate::snat_table::Snat;
use crate::snat_work::Work;

const HEADER: usize = 8;
const CHECK: usize = 2;
/// TCP's checksum: beyond the eight bytes that an error must carry.
const TCP_CHECK: usize = 16;

/// Reads the packet that an error is about; `None` if it is too short to tell.
#[inline(always)]
pub(crate) fn read(skb: &Skb, work: &mut Work) -> bool {
    let at = work.payload as usize + HEADER;
    let Some(ip) = skb.load::<Ip>(at) else {
        return false;
    };
    if !ip.is_ipv4() {
        return false;
    }
    let head_at = at + usize::from(ip.version_ihl & 0xf) * 4;
    let Some(head) = skb.load(head_at) else {
        return false;
    };
    work.embedded.ip = ip;
    work.embedded.head = head;
    work.embedded.tcp_check = match ip.proto {
        PROTO_TCP => skb.load(head_at + TCP_CHECK),
        _ => None,
    };
    work.embedded_at = at as u32;
    work.head_at = head_at as u32;
    true
}

/// What the table says about the flow of the carried packet. An error is for who sent that, and for nobody else: conntrack as well
/// calls it invalid (`nf_conntrack_inet_error`). A pod could else ask whether there is a flow, and under which port.
#[inline(always)]
pub(crate) fn flow(work: &Work, way: u8) -> Option<Outbound> {
    if work.embedded.ip.src != work.ip.dst {
        return None;
    }
    find(&Snat, &work.embedded.key(way)?)
}

/// Translates the carried packet to [`Work::to`]; the outer header is the caller's.
/// [`Reason::SnatError`], or why not.
#[inline(always)]
pub(crate) fn translate(skb: &Skb, work: &Work, way: u8) -> Reason {
    match store_all(skb, work, way) {
        Ok(()) => Reason::SnatError,
        Err(Refused) => Reason::Mangled,
    }
}

#[inline(always)]
fn store_all(skb: &Skb, work: &Work, way: u8) -> Result<(), Refused> {
    let done = rewrite(work.icmp_check, &work.embedded, way, work.to);
    skb.store(work.embedded_at as usize, &done.embedded.ip)?;
    skb.store(work.head_at as usize, &done.embedded.head)?;
    if let Some(check) = done.embedded.tcp_check {
        skb.store(work.head_at as usize + TCP_CHECK, &check)?;
    }
    skb.store(work.payload as usize + CHECK, &done.icmp_check)
}
