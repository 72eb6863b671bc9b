//! Explicit congestion notification across a tunnel (RFC 6040, as `include/net/inet_ecn.h` does it).

use crate::csum;
use crate::header::Ip;

/// The two ECN bits of a TOS byte.
pub const MASK: u8 = 0b11;
/// Not ECN-capable.
pub const NOT_ECT: u8 = 0b00;
pub const ECT_1: u8 = 0b01;
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// Outer ECN of an encapsulated packet: the inner one, but CE is sent as ECT(0), as
/// `INET_ECN_encapsulate` does.
#[inline(always)]
pub const fn encapsulate(inner_tos: u8) -> u8 {
    match inner_tos & MASK {
        CE => ECT_0,
        ecn => ecn,
    }
}

/// What decapsulation does to the inner TOS byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decap {
    Keep,
    /// Write these ECN bits into the inner header.
    Set(u8),
    /// Outer CE on a packet that is not ECN-capable.
    Drop,
}

/// Merges the outer ECN into the inner one (RFC 6040 section 4.2, as `INET_ECN_decapsulate` does it).
#[inline(always)]
pub const fn decapsulate(outer_tos: u8, inner_tos: u8) -> Decap {
    match (outer_tos & MASK, inner_tos & MASK) {
        (CE, NOT_ECT) => Decap::Drop,
        (CE, ECT_0 | ECT_1) => Decap::Set(CE),
        (ECT_1, ECT_0) => Decap::Set(ECT_1),
        _ => Decap::Keep,
    }
}

/// Writes ECN bits into a header. The change and that of the checksum cancel out, so `CHECKSUM_COMPLETE` stays true.
#[inline(always)]
pub const fn set(ip: &mut Ip, bits: u8) {
    let tos = (ip.tos & !MASK) | bits;
    let first = ip.version_ihl;
    ip.check = csum::replace(ip.check, [first, ip.tos], [first, tos]);
    ip.tos = tos;
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable as _;
    use rstest::rstest;

    #[rstest]
    fn a_header_with_other_bits_stays_valid(
        #[values(0, 0xb8, 0xff)] tos: u8,
        #[values(NOT_ECT, ECT_1, ECT_0, CE)] bits: u8,
    ) {
        let mut ip = Ip {
            version_ihl: 0x45,
            tos,
            src: [10, 244, 1, 5],
            ..Ip::zeroed()
        };
        ip.check = csum::ipv4_header(bytemuck::cast_ref(&ip));
        set(&mut ip, bits);
        assert_eq!(ip.tos, tos & 0xfc | bits);
        assert_eq!(ip.check, csum::ipv4_header(bytemuck::cast_ref(&ip)));
    }

    #[rstest]
    #[case(NOT_ECT, NOT_ECT)]
    #[case(ECT_0, ECT_0)]
    #[case(ECT_1, ECT_1)]
    #[case(CE, ECT_0)]
    fn encapsulation_copies_all_but_ce(#[case] inner: u8, #[case] outer: u8) {
        assert_eq!(encapsulate(inner), outer);
        assert_eq!(encapsulate(0b1011_1000 | inner), outer, "DSCP stays inside");
    }

    /// RFC 6040 figure 4, row by row.
    #[rstest]
    #[case(NOT_ECT, NOT_ECT, Decap::Keep)]
    #[case(NOT_ECT, ECT_0, Decap::Keep)]
    #[case(NOT_ECT, ECT_1, Decap::Keep)]
    #[case(NOT_ECT, CE, Decap::Drop)]
    #[case(ECT_0, NOT_ECT, Decap::Keep)]
    #[case(ECT_0, ECT_0, Decap::Keep)]
    #[case(ECT_0, ECT_1, Decap::Set(ECT_1))]
    #[case(ECT_0, CE, Decap::Set(CE))]
    #[case(ECT_1, NOT_ECT, Decap::Keep)]
    #[case(ECT_1, ECT_0, Decap::Keep)]
    #[case(ECT_1, ECT_1, Decap::Keep)]
    #[case(ECT_1, CE, Decap::Set(CE))]
    #[case(CE, NOT_ECT, Decap::Keep)]
    #[case(CE, ECT_0, Decap::Keep)]
    #[case(CE, ECT_1, Decap::Keep)]
    #[case(CE, CE, Decap::Keep)]
    fn decapsulation_table(#[case] inner: u8, #[case] outer: u8, #[case] want: Decap) {
        assert_eq!(decapsulate(outer, inner), want);
    }
}
