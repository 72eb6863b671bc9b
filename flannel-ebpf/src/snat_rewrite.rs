//! Writing another source or destination into a packet.
//!
//! The address and the header checksum change together, so that `CHECKSUM_COMPLETE` stays true; the
//! transport checksum goes through the helper, which knows the state of checksum offload.

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use flannel_common::Ipv4;
use flannel_common::csum::Delta;
use flannel_common::header::{PROTO_UDP, PROTO_UDP_LITE};
use flannel_common::reason::Reason;
use flannel_common::snat::{Endpoint, Transport, WAY_OUT};

use crate::headers;
use crate::skb::{Refused, Skb};
use crate::snat_work::{self, Work};

/// Offset of the checksum in an IPv4 header; source and destination follow it.
const CHECK: usize = 10;

#[repr(C, align(2))]
struct Addresses {
    check: [u8; 2],
    src: Ipv4,
    dst: Ipv4,
}

const _: () = assert!(size_of::<Addresses>() == 10);

/// Replaces source (on the way out) or destination (on the way in) of a packet with ports or an id by
/// [`Work::to`]. Returns `done`, or why not.
///
/// By a global function, as [`check_sender`](crate::senders::check_sender) is one.
#[inline(always)]
pub(crate) fn endpoint(skb: &Skb, done: Reason) -> Reason {
    match rewrite_endpoint(skb.raw(), skb.missing()) {
        0 => Reason::Mangled,
        _ => done,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rewrite_endpoint(ctx: *mut __sk_buff, missing: u32) -> u32 {
    let Some(work) = snat_work::get() else {
        return 0;
    };
    let skb = Skb::again(ctx, missing);
    let packet = &work.packet;
    let out = packet.key.way == WAY_OUT;
    let (from, port_at) = match out {
        true => (packet.key.source(), 0),
        false => (packet.key.destination(), 2),
    };
    let port_at = match packet.transport {
        Transport::Icmp => 4,
        _ => port_at,
    };
    if transport(&skb, work, from, port_at).is_err() {
        return 0;
    }
    u32::from(address(&skb, work, out, work.to.addr, Reason::Snat) == Reason::Snat)
}

#[inline(always)]
fn transport(skb: &Skb, work: &Work, from: Endpoint, port_at: usize) -> Result<(), Refused> {
    let to = &work.to;
    let (check_at, pseudo_header) = match work.packet.transport {
        Transport::Tcp => (16, BPF_F_PSEUDO_HDR),
        Transport::Udp => (6, BPF_F_PSEUDO_HDR),
        Transport::Icmp => (2, 0),
        // SCTP keeps its port and its CRC covers no address.
        Transport::Sctp | Transport::Other => return Ok(()),
    };
    let check_at = work.payload as usize + check_at;
    // "No checksum" stays "no checksum", and none becomes it. (UDP-Lite has no such thing: RFC 3828.)
    let zero = match work.ip.proto {
        PROTO_UDP | PROTO_UDP_LITE => u64::from(BPF_F_MARK_MANGLED_0),
        _ => 0,
    };
    if pseudo_header != 0 {
        let (old, new) = (u32::from_ne_bytes(from.addr), u32::from_ne_bytes(to.addr));
        skb.fix_checksum(check_at, old, new, u64::from(pseudo_header) | zero | 4)?;
    }
    if from.port != to.port {
        let (old, new) = (u16::from_ne_bytes(from.port), u16::from_ne_bytes(to.port));
        skb.fix_checksum(check_at, u32::from(old), u32::from(new), zero | 2)?;
        skb.store(work.payload as usize + port_at, &to.port)?;
    }
    Ok(())
}

/// Replaces source or destination in the IPv4 header alone. Returns `done`, or why not.
#[inline(always)]
pub(crate) fn address(skb: &Skb, work: &Work, out: bool, to: Ipv4, done: Reason) -> Reason {
    let ip = &work.ip;
    let (from, src, dst) = match out {
        true => (ip.src, to, ip.dst),
        false => (ip.dst, ip.src, to),
    };
    let addresses = Addresses {
        check: Delta::default().address(from, to).apply(ip.check),
        src,
        dst,
    };
    match skb.store(headers::IP + CHECK, &addresses) {
        Ok(()) => done,
        Err(Refused) => Reason::Mangled,
    }
}
