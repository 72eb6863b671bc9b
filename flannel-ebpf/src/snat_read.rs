//! What an IPv4 packet is to the SNAT programs.

use aya_ebpf::bindings::__sk_buff;
use flannel_common::header::Ip;
use flannel_common::snat::{Packet, Segment, Transport, is_icmp_error, is_icmp_redirect};

use crate::headers;
use crate::skb::Skb;
use crate::snat_work::{self, Odd, Work};

#[derive(Clone, Copy)]
pub(crate) enum Content {
    /// Part of a flow: [`Work::packet`].
    Flow,
    /// An ICMP error or a fragment behind the first ([`Work::odd`]): no ports either way.
    Odd,
    /// ICMP that neither asks, answers nor complains.
    Neither,
    /// The packet ends too early, or its header is impossible.
    Cut,
}

/// A header and the ports behind it. Words, because byte by byte is how an [`Ip`] goes through registers.
#[repr(C)]
#[derive(Clone, Copy)]
struct Start {
    ip: [u32; Ip::LEN / 4],
    ports: [u8; 8],
}

/// A TCP header without options.
#[repr(C)]
#[derive(Clone, Copy)]
struct Header([u32; 5]);

/// The first bytes behind the header, in one word.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Head([u8; 8]);

/// The IPv4 header of a frame, in registers: the verifier sees fewer paths behind it than behind
/// [`headers::load`].
#[inline(always)]
pub(crate) fn header(skb: &Skb) -> Option<Ip> {
    let start = match skb.load(headers::IP) {
        Some(start) => start,
        None => Start {
            ip: skb.load(headers::IP)?,
            ports: [0; 8],
        },
    };
    Some(bytemuck::must_cast(start.ip))
}

/// Reads what follows the header into `work`.
#[inline(always)]
pub(crate) fn content(skb: &Skb, work: &mut Work, way: u8) -> Content {
    let ip = &work.ip;
    if !ip.is_ipv4() {
        return Content::Cut;
    }
    let payload = headers::IP + usize::from(ip.version_ihl & 0xf) * 4;
    work.payload = payload as u32;
    if ip.fragment_offset() != 0 {
        work.odd = Odd::Follower;
        return Content::Odd;
    }
    let mut head = Head([0; 8]);
    let mut flags = 0;
    let transport = Transport::of(ip.proto);
    if !matches!(transport, Transport::Other) {
        let Some(loaded) = skb.load(payload) else {
            return Content::Cut;
        };
        head = loaded;
        if matches!(transport, Transport::Tcp) {
            flags = match read_tcp(skb.raw(), skb.missing()) {
                CUT => return Content::Cut,
                loaded => loaded as u8,
            };
        }
    }
    let Head(head) = head;
    let (ip, segment) = (&work.ip, work.segment);
    match Packet::of(ip.src, ip.dst, ip.proto, way, &head, flags, segment) {
        Some(packet) => {
            work.packet = packet;
            Content::Flow
        }
        None if is_icmp_error(head[0]) => {
            work.icmp_check = [head[2], head[3]];
            work.odd = if is_icmp_redirect(head[0]) {
                Odd::Redirect
            } else {
                Odd::Error
            };
            Content::Odd
        }
        None => Content::Neither,
    }
}

/// No TCP flags.
const CUT: u32 = 1 << 8;

/// Reads a TCP header to its end, so that its checksum is there as well, into [`Work::segment`]. Returns its flags, or [`CUT`].
///
/// A global function, as [`check_sender`](crate::senders::check_sender) is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_tcp(ctx: *mut __sk_buff, missing: u32) -> u32 {
    let Some(work) = snat_work::get() else {
        return CUT;
    };
    let skb = Skb::again(ctx, missing);
    let Some(Header(header)) = skb.load::<Header>(work.payload as usize) else {
        return CUT;
    };
    // By the IPv4 header, as short frames are padded; where that says nothing (BIG TCP), all there is.
    let total = u32::from(work.ip.total_len());
    let end = match total {
        0 => skb.len(),
        total => headers::IP as u32 + total,
    };
    let header: [u8; 20] = bytemuck::must_cast(header);
    let [first @ .., _, _, _, _, _, _] = header;
    work.segment = Segment::new(&first, end.wrapping_sub(work.payload));
    u32::from(first[13])
}
