//! What nobody on the node is to guess: under which port a flow leaves.
//!
//! `bpf_get_prandom_u32` alone will not do: its generator is linear, and a process without any capability reads the very same
//! state by a socket filter (`SKF_AD_RANDOM`, net/core/filter.c). The kernel's `MASQUERADE --random-fully` takes `get_random_u16`.

/// `SipHash-1-3` of the seven bytes that `message` has below its top one, under a secret of 128 bits: one block, with the length
/// on top. As the kernel's `hsiphash` (include/linux/siphash.h), for what is unknown to others as long as the secret is.
#[inline(always)]
#[must_use]
pub const fn siphash(secret: [u64; 2], message: u64) -> u64 {
    const LENGTH: u64 = 7 << 56;
    let block = message & (u64::MAX >> 8) | LENGTH;
    let [k0, k1] = secret;
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573 ^ block,
    ];
    v = round(v);
    v[0] ^= block;
    v[2] ^= 0xff;
    v = round(round(round(v)));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
const fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    c = c.wrapping_add(d);
    b = b.rotate_left(13) ^ a;
    d = d.rotate_left(16) ^ c;
    a = a.rotate_left(32).wrapping_add(d);
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    d = d.rotate_left(21) ^ a;
    [a, b, c.rotate_left(32), d]
}

/// The number for one of several tries, of one hash: far from that of the try before, and of each of some others. A multiple would not
/// do: of a small hash they are all small.
#[inline(always)]
#[must_use]
pub const fn of_round(hash: u64, round: u32) -> u32 {
    /// 2^64 by the golden ratio.
    const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;
    (hash.wrapping_add(STRIDE.wrapping_mul(round as u64)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SECRET: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

    /// Computed by another implementation, which has the empty message's published vector (`dc c4 0f 05 58 01 ac ab`).
    #[test]
    fn it_is_siphash_1_3() {
        let message = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 0]);
        assert_eq!(siphash(SECRET, message), 0xd392_7d98_9bb1_1140);
        assert_eq!(siphash(SECRET, u64::MAX), 0x3cc4_ff4a_bc8a_aa12);
    }

    #[test]
    fn another_secret_or_another_moment_says_something_else() {
        let numbers: BTreeSet<u64> = (0..1_000)
            .flat_map(|n| [siphash(SECRET, n), siphash([SECRET[0], n], 0)])
            .collect();
        assert_eq!(numbers.len(), 2_000);
    }

    #[test]
    fn each_round_has_a_number_of_its_own() {
        let hash = siphash(SECRET, 7);
        let numbers: BTreeSet<u32> = (0..8).map(|round| of_round(hash, round)).collect();
        assert_eq!(numbers.len(), 8);
        assert_eq!(u64::from(of_round(hash, 0)), hash >> 32);
    }

    /// In a range of four ports, of which one is taken.
    #[test]
    fn no_try_is_where_the_one_before_was() {
        for hash in [0, 1, u64::MAX, u64::MAX / 2, siphash(SECRET, 7)] {
            for round in 0..7 {
                let port = |round| of_round(hash, round) >> 30;
                assert_ne!(port(round), port(round + 1), "{hash:#x} {round}");
            }
        }
    }
}
