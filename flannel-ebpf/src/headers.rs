//! Reading an IPv4 packet: one load for what nearly every packet has.

use flannel_common::header::{Eth, Ip};
use flannel_common::transport::L4;

use crate::skb::Skb;

/// An IPv4 header without options and what follows it, aligned on the stack so that fields load as words.
#[repr(C, align(4))]
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) ip: Ip,
    /// The first eight bytes behind an option-less header; zero where the packet ends before.
    pub(crate) l4: L4,
}

const _: () = assert!(size_of::<Packet>() == 28);

/// The packet whose IPv4 header lies at `at`.
#[inline(always)]
pub(crate) fn load(skb: &Skb, at: usize) -> Option<Packet> {
    match skb.load(at) {
        Some(packet) => Some(packet),
        None => Some(Packet {
            ip: skb.load(at)?,
            l4: L4::default(),
        }),
    }
}

/// Offset of the IPv4 header in a plain frame.
pub(crate) const IP: usize = Eth::LEN;
