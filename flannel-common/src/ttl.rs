//! The time to live of a packet that skips the stack: still one hop.

use crate::csum;
use crate::header::Ip;

/// The header with a TTL one lower; the caller has made sure it is above 1.
/// The change of the TTL and of the checksum cancel out, so `CHECKSUM_COMPLETE` stays true.
#[inline(always)]
pub const fn decremented(ip: &Ip) -> Ip {
    let ttl = ip.ttl.wrapping_sub(1);
    Ip {
        ttl,
        check: csum::replace(ip.check, [ip.ttl, ip.proto], [ttl, ip.proto]),
        ..*ip
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn header_stays_valid(ttl in 2u8.., proto: u8, src: [u8; 4], dst: [u8; 4], id: [u8; 2]) {
            let mut ip = Ip { version_ihl: 0x45, ttl, proto, src, dst, id, ..bytemuck::Zeroable::zeroed() };
            ip.check = csum::ipv4_header(bytemuck::cast_ref(&ip));
            let new = decremented(&ip);
            prop_assert_eq!(new, Ip { ttl: ttl - 1, check: new.check, ..ip });
            let want = csum::ipv4_header(bytemuck::cast_ref(&new));
            // 0x0000 and 0xffff are the same number in ones' complement.
            let same = |a: [u8; 2]| if a == [0xff, 0xff] { [0, 0] } else { a };
            prop_assert_eq!(same(new.check), same(want));
        }
    }
}
