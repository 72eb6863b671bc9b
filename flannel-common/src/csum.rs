//! The Internet checksum (RFC 1071).

use crate::Ipv4;

/// Folds a 32-bit sum of 16-bit words to 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    // Two folds leave at most 16 bits.
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits above")]
    let word = sum as u16;
    word
}

/// Checksum of an option-less IPv4 header; its checksum field counts as zero.
#[inline(always)]
pub fn ipv4_header(header: &[u8; 20]) -> [u8; 2] {
    let mut sum = 0u32;
    let mut i = 0;
    while i < 20 {
        if i != 10 {
            sum += u32::from(u16::from_be_bytes([header[i], header[i + 1]]));
        }
        i += 2;
    }
    (!fold(sum)).to_be_bytes()
}

/// What changes of 16-bit words add to a checksum over them (RFC 1624, equation 3).
///
/// Good for some ten thousand words before it would overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delta(u32);

impl Delta {
    /// Nothing changed.
    pub const NONE: Self = Self(0);

    /// One word, network order.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: [u8; 2], new: [u8; 2]) -> Self {
        Self(self.0 + (!u16::from_be_bytes(old)) as u32 + u16::from_be_bytes(new) as u32)
    }

    /// An IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn address(self, old: Ipv4, new: Ipv4) -> Self {
        let (old, new) = (!u32::from_be_bytes(old), u32::from_be_bytes(new));
        Self(self.0 + (old >> 16) + (old & 0xffff) + (new >> 16) + (new & 0xffff))
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum after the changes.
    #[inline(always)]
    pub const fn apply(self, check: [u8; 2]) -> [u8; 2] {
        let sum = (!u16::from_be_bytes(check)) as u32 + self.0;
        (!fold(sum)).to_be_bytes()
    }
}

/// New checksum after one 16-bit word changed, all in network order.
#[inline(always)]
pub const fn replace(check: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    Delta(0).word(old, new).apply(check)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::Ipv4Header;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn header_checksum_equals_etherparse(ttl: u8, tos in 0u8..64, len in 0u16..65_515, id: u16, src: [u8; 4], dst: [u8; 4]) {
            let mut h = Ipv4Header::new(len, ttl, etherparse::IpNumber::UDP, src, dst).unwrap();
            h.dscp = tos.try_into().unwrap();
            h.identification = id;
            h.header_checksum = h.calc_header_checksum();
            let bytes: [u8; 20] = h.to_bytes().as_slice().try_into().unwrap();
            prop_assert_eq!(ipv4_header(&bytes), [bytes[10], bytes[11]]);
        }

        #[test]
        fn replace_equals_recompute(mut h: [u8; 20], word in 0usize..10, new: [u8; 2]) {
            prop_assume!(word != 5);
            let check = ipv4_header(&h);
            let old = [h[word * 2], h[word * 2 + 1]];
            h[word * 2] = new[0];
            h[word * 2 + 1] = new[1];
            let want = ipv4_header(&h);
            let got = replace(check, old, new);
            // 0x0000 and 0xffff are the same number in ones' complement.
            let same = |a: [u8; 2]| if a == [0xff, 0xff] { [0, 0] } else { a };
            prop_assert_eq!(same(got), same(want));
        }

        #[test]
        fn an_address_is_two_words(check: [u8; 2], old: Ipv4, new: Ipv4) {
            let words = Delta::default()
                .word([old[0], old[1]], [new[0], new[1]])
                .word([old[2], old[3]], [new[2], new[3]]);
            let address = Delta::default().address(old, new);
            prop_assert_eq!(address.apply(check), words.apply(check));
        }
    }
}
