//! Arithmetic on IPv4 prefixes.

use crate::Ipv4;

/// The mask of a prefix length, host order. Lengths over 32 count as 32.
pub const fn mask(len: u8) -> u32 {
    match len {
        0 => 0,
        32.. => u32::MAX,
        _ => u32::MAX << (32 - len),
    }
}

/// Whether `addr` lies in the prefix `network`/`mask` (both host order).
#[inline(always)]
pub const fn contains(network: u32, mask: u32, addr: Ipv4) -> bool {
    u32::from_be_bytes(addr) & mask == network
}

/// Multicast (224/4), reserved (240/4) or limited broadcast: nothing a unicast tunnel carries.
#[inline(always)]
pub const fn is_not_unicast(addr: Ipv4) -> bool {
    addr[0] >= 224
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_at_the_ends() {
        assert_eq!(mask(0), 0);
        assert_eq!(mask(24), 0xffff_ff00);
        assert_eq!(mask(32), u32::MAX);
        assert_eq!(mask(200), u32::MAX);
    }

    #[test]
    fn contains_knows_its_borders() {
        let net = u32::from_be_bytes([10, 244, 0, 0]);
        assert!(contains(net, mask(16), [10, 244, 255, 255]));
        assert!(!contains(net, mask(16), [10, 245, 0, 0]));
        assert!(contains(0, 0, [255, 255, 255, 255]));
    }

    #[test]
    fn unicast_ends_at_224() {
        assert!(!is_not_unicast([223, 255, 255, 255]));
        assert!(is_not_unicast([224, 0, 0, 1]));
        assert!(is_not_unicast([255, 255, 255, 255]));
    }
}
