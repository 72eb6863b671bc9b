//! Ethernet, IPv4 and UDP headers as byte structs: alignment 1, network order, no swapping.

use bytemuck::{Pod, Zeroable};

use crate::reason::Reason;
use crate::{Ipv4, Mac};

pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// 802.1Q.
pub const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
/// 802.1ad, the outer of two.
pub const ETHERTYPE_SERVICE_VLAN: [u8; 2] = [0x88, 0xa8];
pub const PROTO_ICMP: u8 = 1;
/// IPv4 in IPv4 (RFC 2003).
pub const PROTO_IPIP: u8 = 4;
pub const PROTO_TCP: u8 = 6;
pub const PROTO_UDP: u8 = 17;
pub const PROTO_UDP_LITE: u8 = 136;

/// IPv4 version 4 with a header of five words: no options.
pub const VERSION_IHL: u8 = 0x45;
/// Flags and offset word: everything but "don't fragment" means a fragment.
const FRAGMENT_MASK: u16 = 0x3fff;
const OFFSET_MASK: u16 = 0x1fff;

#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Eth {
    pub dst: Mac,
    pub src: Mac,
    pub ethertype: [u8; 2],
}

/// RFC 791, without options.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Ip {
    pub version_ihl: u8,
    pub tos: u8,
    pub total_len: [u8; 2],
    pub id: [u8; 2],
    pub fragment: [u8; 2],
    pub ttl: u8,
    pub proto: u8,
    pub check: [u8; 2],
    pub src: Ipv4,
    pub dst: Ipv4,
}

/// RFC 768.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Udp {
    pub src: [u8; 2],
    pub dst: [u8; 2],
    pub len: [u8; 2],
    pub check: [u8; 2],
}

impl Ip {
    pub const LEN: usize = size_of::<Self>();

    /// Any part of a fragmented packet, the first one too.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        u16::from_be_bytes(self.fragment) & FRAGMENT_MASK != 0
    }

    /// Where in the packet this fragment lies, in units of eight bytes; 0 for the first and for whole packets.
    #[inline(always)]
    pub const fn fragment_offset(&self) -> u16 {
        u16::from_be_bytes(self.fragment) & OFFSET_MASK
    }

    #[inline(always)]
    pub const fn total_len(&self) -> u16 {
        u16::from_be_bytes(self.total_len)
    }

    /// Bytes of [`Self::front`].
    pub const FRONT: usize = 12;

    /// Up to and with the checksum: all that a hop changes. By words, which BPF has to copy one by one as it is.
    #[inline(always)]
    pub const fn front(&self) -> [u8; Self::FRONT] {
        let [a, b, c, _, _]: [u32; Self::LEN / 4] = bytemuck::must_cast(*self);
        bytemuck::must_cast([a, b, c])
    }

    /// Whether it can be the header of a packet inside of another, which leaves it `room` bytes.
    ///
    /// # Errors
    /// [`Reason::NotIpv4`] or [`Reason::LengthMismatch`].
    #[inline(always)]
    pub const fn check_within(&self, room: u16) -> Result<(), Reason> {
        if !self.is_ipv4() {
            return Err(Reason::NotIpv4);
        }
        let header_len = (self.version_ihl & 0xf) as u16 * 4;
        if self.total_len() > room || self.total_len() < header_len {
            return Err(Reason::LengthMismatch);
        }
        Ok(())
    }

    /// Version 4 and a plausible header length.
    #[inline(always)]
    pub const fn is_ipv4(&self) -> bool {
        self.version_ihl >> 4 == 4 && self.version_ihl & 0xf >= 5
    }
}

impl Eth {
    pub const LEN: usize = size_of::<Self>();

    /// Multicast or broadcast.
    #[inline(always)]
    pub const fn is_to_group(&self) -> bool {
        self.dst[0] & 1 != 0
    }
}

impl Udp {
    pub const LEN: usize = size_of::<Self>();
}

const _: () = assert!(Eth::LEN == 14 && Ip::LEN == 20 && Udp::LEN == 8);

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(fragment: u16) -> Ip {
        Ip {
            fragment: fragment.to_be_bytes(),
            ..Ip::zeroed()
        }
    }

    #[test]
    fn the_front_ends_with_the_checksum() {
        let bytes: [u8; Ip::LEN] = core::array::from_fn(|i| i.to_le_bytes()[0]);
        let ip: Ip = bytemuck::must_cast(bytes);
        assert_eq!(ip.front(), bytes[..Ip::FRONT]);
        assert_eq!(ip.front()[10..], ip.check);
    }

    #[test]
    fn dont_fragment_is_no_fragment() {
        assert!(!ip(0x4000).is_fragment());
        assert!(!ip(0).is_fragment());
    }

    #[test]
    fn first_middle_and_last_are_fragments() {
        assert!(ip(0x2000).is_fragment(), "more fragments");
        assert!(ip(0x20b9).is_fragment(), "more fragments, offset");
        assert!(ip(0x00b9).is_fragment(), "last");
    }
}
