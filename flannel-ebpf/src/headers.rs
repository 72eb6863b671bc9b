//! Reading headers: one helper call a packet, into words that are aligned on the stack.

use bytemuck::{Pod, Zeroable};
use core::mem::MaybeUninit;
use flannel_common::Mac;
use flannel_common::header::{ETHERTYPE_IPV4, Eth, Ip, Udp};
use flannel_common::reason::Reason;
use flannel_common::transport::L4;
use flannel_common::vxlan::Outer;

use crate::skb::Skb;

/// An IPv4 header without options and what follows it. What the packet does not have is zero.
///
/// Aligned, because BPF has no unaligned loads: byte by byte they were a good part of a program's time.
#[repr(C, align(4))]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Packet {
    pub(crate) ip: Ip,
    pub(crate) l4: L4,
}

/// The front of a VXLAN packet, from where on the inner packet is aligned.
#[repr(C, align(4))]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Front {
    pub(crate) eth: Eth,
    pub(crate) outer: Outer,
    pub(crate) inner: Packet,
}

const _: () = assert!((Eth::LEN + Outer::LEN).is_multiple_of(align_of::<Packet>()));

/// What a UDP header has; a shorter packet has no ports either.
pub(crate) const SHORT_L4: usize = 8;
const L4_AT: usize = Ip::LEN;

/// Reads the packet whose IPv4 header lies at `at`.
#[inline(always)]
pub(crate) fn load<'a>(
    skb: &Skb,
    at: usize,
    room: &'a mut MaybeUninit<Packet>,
) -> Option<&'a Packet> {
    load_mut(skb, at, room).map(|packet| &*packet)
}

/// As [`load`], for who changes it in its place: a copy would be more than the stack has room for.
#[inline(always)]
pub(crate) fn load_mut<'a>(
    skb: &Skb,
    at: usize,
    room: &'a mut MaybeUninit<Packet>,
) -> Option<&'a mut Packet> {
    let (packet, whole) = skb.read(at, room);
    if !whole {
        if !skb.read_first::<{ Ip::LEN }, _>(at, packet) {
            return None;
        }
        skb.read_first::<SHORT_L4, _>(at + L4_AT, &mut packet.l4);
    }
    Some(packet)
}

/// Reads the front of what may be a VXLAN packet. Returns as well whether it reaches to the end of the inner header.
#[inline(always)]
pub(crate) fn load_front<'a>(skb: &Skb, room: &'a mut MaybeUninit<Front>) -> (&'a Front, bool) {
    const INNER_IP: usize = Eth::LEN + Outer::LEN;
    let (front, whole) = skb.read(0, room);
    let mut complete = whole;
    if !whole {
        complete = skb.read_first::<{ INNER_IP + Ip::LEN }, _>(0, front);
        if complete {
            skb.read_first::<SHORT_L4, _>(INNER_IP + L4_AT, &mut front.inner.l4);
        } else {
            skb.read_first::<{ Eth::LEN + Ip::LEN + Udp::LEN }, _>(0, front);
        }
    }
    (front, complete)
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Macs {
    pub(crate) dst: Mac,
    pub(crate) src: Mac,
}

/// What a hop changes: MACs, and the IPv4 header up to its checksum.
#[repr(C, align(2))]
struct Hop {
    macs: Macs,
    ethertype: [u8; 2],
    ip: [u8; Ip::FRONT],
}

const _: () = assert!(size_of::<Hop>() == Eth::LEN + Ip::FRONT);

/// Writes what a hop changes of a plain frame. What changed in `ip` has to be in its checksum, which also keeps
/// `CHECKSUM_COMPLETE` true.
#[inline(always)]
pub(crate) fn rewrite(skb: &Skb, macs: Macs, ip: &Ip) -> Result<(), Reason> {
    let hop = Hop {
        macs,
        ethertype: ETHERTYPE_IPV4,
        ip: ip.front(),
    };
    skb.store(0, &hop).map_err(|_| Reason::Mangled)
}

/// Offset of the IPv4 header in a plain frame.
pub(crate) const IP: usize = Eth::LEN;
