//! What the stack does to a packet besides the hop.

use bytemuck::{Pod, Zeroable};

use crate::csum::Delta;
use crate::ecn;
use crate::header::Ip;

/// What the stack did to the packet that proved a direction, besides the hop (TTL less one): it is done to the next alike.
/// Addresses and ports are not among it: what they become is proven to be the same.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Change {
    /// Mark with which it went in, and with which it came out.
    pub mark_in: u32,
    pub mark: u32,
    /// Traffic class with which it came out; with which it goes in does not matter (`ip_forward` sets it by the TOS).
    pub priority: u32,
    /// TOS byte with which it went in, and with which it came out.
    pub tos_in: u8,
    pub tos: u8,
    /// TTL with which it went in: rules may go by it (`-m ttl`).
    pub ttl_in: u8,
    pub pad: u8,
}

impl Change {
    /// A hop, and nothing else.
    pub const NONE: Self = Self {
        mark_in: 0,
        mark: 0,
        priority: 0,
        tos_in: 0,
        tos: 0,
        ttl_in: 0,
        pad: 0,
    };

    /// Whether a packet is like the one of which this was learnt, in what rules or routes mostly go by: what they do
    /// to another may be something else. `TOS` without the ECN bits, which are the network's.
    #[inline(always)]
    pub const fn is_of(&self, ip: &Ip, mark: u32) -> bool {
        self.difference(ip, mark) == 0
    }

    /// 0 if [`Self::is_of`]; for those who have more to compare.
    #[inline(always)]
    pub const fn difference(&self, ip: &Ip, mark: u32) -> u32 {
        let tos = (ip.tos ^ self.tos_in) & !ecn::MASK;
        (tos | (ip.ttl ^ self.ttl_in)) as u32 | (mark ^ self.mark_in)
    }

    /// The header of such a packet behind the stack: the TTL one lower, which the caller has made sure is above 1.
    /// The changes and that of the checksum cancel out, so `CHECKSUM_COMPLETE` stays true.
    #[inline(always)]
    #[must_use]
    pub const fn hop(&self, ip: &Ip) -> Ip {
        let ttl = ip.ttl.wrapping_sub(1);
        let tos = ip.tos ^ self.tos_in ^ self.tos;
        let delta = Delta::NONE
            .word([ip.version_ihl, ip.tos], [ip.version_ihl, tos])
            .word([ip.ttl, ip.proto], [ttl, ip.proto]);
        Ip {
            tos,
            ttl,
            check: delta.apply(ip.check),
            ..*ip
        }
    }
}
