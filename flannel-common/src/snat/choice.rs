//! Which of its device's addresses a flow leaves as: the one that MASQUERADE takes (`inet_select_addr`).

use bytemuck::{Pod, Zeroable};

use crate::{Ipv4, Mac};

/// As many addresses of a device are looked at: the first, and others that have a subnet.
pub const MAX_CHOICES: usize = 8;

/// An address of a device, and who is its neighbour.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Choice {
    pub address: Ipv4,
    /// Network address of its subnet, or of the other side's on a point-to-point link; network order.
    pub link: Ipv4,
    /// Network order.
    pub mask: Ipv4,
}

/// The primary addresses of a device in the kernel's order. Behind the last come repetitions of the first.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Choices {
    pub all: [Choice; MAX_CHOICES],
    /// 1: netfilter sees what arrives by the device before our hook does, because it is a bridge or is on one.
    pub tracked: u16,
    /// The device's own, from which the node sends; all zero if it has none.
    pub mac: Mac,
}

impl Choices {
    /// What there is no room for is not chosen.
    pub fn new(first: Choice, others: impl IntoIterator<Item = Choice>) -> Self {
        let mut all = [first; MAX_CHOICES];
        let rest = all.iter_mut().skip(1);
        rest.zip(others).for_each(|(slot, other)| *slot = other);
        Self {
            all,
            tracked: 0,
            mac: [0; 6],
        }
    }

    /// Of a device with this MAC.
    #[must_use]
    pub fn with_mac(self, mac: Mac) -> Self {
        Self { mac, ..self }
    }

    /// Whether somebody else than the node sent a frame with this source by the device.
    #[inline(always)]
    pub fn is_of_another(&self, source: Mac) -> bool {
        self.mac != [0; 6] && self.mac != source
    }

    /// Of a device whose packets are tracked at a bridge's port, if `tracked`.
    #[must_use]
    pub fn tracked(self, tracked: bool) -> Self {
        Self {
            tracked: tracked.into(),
            ..self
        }
    }

    /// Whom a flow leaves as if nothing fits better.
    #[inline(always)]
    pub const fn first(&self) -> Ipv4 {
        self.all[0].address
    }

    /// Whether the next hop matters.
    #[inline(always)]
    pub fn are_several(&self) -> bool {
        u32::from_ne_bytes(self.all[0].address) != u32::from_ne_bytes(self.all[1].address)
    }

    /// The first address in whose subnet the next hop lies, or else the first.
    #[inline(always)]
    pub fn towards(&self, next_hop: Ipv4) -> Ipv4 {
        let next_hop = u32::from_ne_bytes(next_hop);
        let mut chosen = u32::from_ne_bytes(self.first());
        // Backwards and without a branch: the verifier sees one path.
        for choice in self.all.iter().rev() {
            let [address, link, mask] =
                [choice.address, choice.link, choice.mask].map(u32::from_ne_bytes);
            let differs = (next_hop ^ link) & mask;
            // All ones if any bit is set.
            let keep = ((differs | differs.wrapping_neg()) >> 31).wrapping_neg();
            chosen = address ^ (address ^ chosen) & keep;
        }
        chosen.to_ne_bytes()
    }

    /// Without the repetitions.
    pub fn distinct(&self) -> impl Iterator<Item = &Choice> {
        let (first, rest) = self.all.split_at(1);
        first
            .iter()
            .chain(rest.iter().take_while(|c| **c != self.all[0]))
    }
}

/// An address that flows may leave as.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct Lent {
    /// By which device; 0: by any.
    pub ifindex: u32,
    pub address: Ipv4,
}

const _: () = assert!(size_of::<Choices>() == 12 * MAX_CHOICES + 8 && size_of::<Lent>() == 8);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn choice(address: Ipv4, prefix: u32) -> Choice {
        let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
        let link = u32::from_be_bytes(address) & mask;
        Choice {
            address,
            link: link.to_be_bytes(),
            mask: mask.to_be_bytes(),
        }
    }

    const A: Ipv4 = [192, 0, 2, 11];
    const B: Ipv4 = [198, 51, 100, 11];

    #[test]
    fn a_neighbour_sees_an_address_of_his_own_subnet() {
        let choices = Choices::new(choice(A, 24), [choice(B, 24)]);
        assert!(choices.are_several());
        for (next_hop, expected) in [
            ([192, 0, 2, 1], A),
            ([198, 51, 100, 200], B),
            ([203, 0, 113, 1], A),
        ] {
            assert_eq!(choices.towards(next_hop), expected, "{next_hop:?}");
        }
    }

    #[test]
    fn of_two_that_fit_the_first_counts() {
        let narrow_first = Choices::new(choice(A, 24), [choice([192, 0, 2, 130], 25)]);
        assert_eq!(narrow_first.towards([192, 0, 2, 200]), A);
        let narrow_last =
            Choices::new(choice(B, 24), [choice([192, 0, 2, 130], 25), choice(A, 24)]);
        assert_eq!(narrow_last.towards([192, 0, 2, 200]), [192, 0, 2, 130]);
        assert_eq!(narrow_last.towards([192, 0, 2, 1]), A);
    }

    #[test]
    fn one_address_is_no_choice() {
        let only = Choices::new(choice(A, 24), []);
        assert!(!only.are_several());
        assert_eq!(only.towards([198, 51, 100, 200]), A);
        assert_eq!(only.distinct().count(), 1);
    }

    proptest! {
        #[test]
        fn the_kernels_choice(
            all in prop::collection::vec((any::<[u8; 4]>(), 8u32..=32), 1..20), nth: prop::sample::Index, near: bool, far: [u8; 4],
        ) {
            let all: Vec<Choice> = all.iter().map(|(address, prefix)| choice(*address, *prefix)).collect();
            let choices = Choices::new(all[0], all[1..].iter().copied());
            let seen = &all[..all.len().min(MAX_CHOICES)];
            let next_hop = if near { nth.get(seen).address } else { far };
            let and = |a: Ipv4, b: Ipv4| [0, 1, 2, 3].map(|n| a[n] & b[n]);
            let fits = seen.iter().find(|c| and(next_hop, c.mask) == c.link);
            prop_assert_eq!(choices.towards(next_hop), fits.unwrap_or(&seen[0]).address);
        }
    }
}
