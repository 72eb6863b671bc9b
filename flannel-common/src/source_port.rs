//! The outer UDP source port: the inner flow's hash scaled into the local port range.

/// What `udp_flow_src_port` (`include/net/udp.h`) computes, so that a flow keeps its ECMP path and its
/// NIC queue when a node changes from the kernel's vxlan to ours. `min` and `max` in host order.
#[inline(always)]
pub const fn from_hash(hash: u32, min: u16, max: u16) -> [u8; 2] {
    // The upper bits decide the scaled value; a jhash may have less entropy there.
    let hash = hash ^ (hash << 16);
    let span = max.saturating_sub(min) as u64;
    // hash < 2^32, so the product over 2^32 is below span <= 65535 and the sum is at most max.
    #[expect(clippy::cast_possible_truncation, reason = "below 65536, see above")]
    let offset = ((hash as u64 * span) >> 32) as u16;
    min.wrapping_add(offset).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stays_in_range(hash: u32, a: u16, b: u16) {
            let (min, max) = (a.min(b), a.max(b));
            let port = u16::from_be_bytes(from_hash(hash, min, max));
            prop_assert!((min..=max).contains(&port));
        }
    }

    #[test]
    fn known_values_of_the_kernel_formula() {
        assert_eq!(from_hash(0, 32_768, 60_999), 32_768u16.to_be_bytes());
        // 0x12345678 ^ 0x56780000 = 0x444c5678; * 28231 >> 32 = 7531.
        assert_eq!(
            from_hash(0x1234_5678, 32_768, 60_999),
            40_299u16.to_be_bytes()
        );
    }
}
