//! Under which port a new flow is tried.

use super::transport::Transport;

/// Ports tried by one call of [`open`](super::open), the flow's own aside.
pub const PROBES: u64 = 16;

/// How often [`open`](super::open) may be asked before a flow is refused: 128 tries, as the kernel's NAT makes.
/// With 90 % of a large range taken, one flow in a million is refused; at 99 %, one in four.
pub const ROUNDS: u32 = 8;

/// The ports flows may leave under; both ends count, host order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    pub min: u16,
    pub max: u16,
}

impl Ports {
    const ALL: Self = Self {
        min: 0,
        max: u16::MAX,
    };

    /// Whether a port, in network order, is one of them.
    #[inline(always)]
    pub const fn has(self, port: [u8; 2]) -> bool {
        let port = u16::from_be_bytes(port);
        self.min <= port && port <= self.max
    }

    /// Those that are searched in a round: `more`, if there are any, once half of the [`ROUNDS`] have found none free.
    #[inline(always)]
    #[must_use]
    pub const fn or(self, more: Self, round: u32) -> Self {
        if round >= ROUNDS / 2 && more.max != 0 {
            more
        } else {
            self
        }
    }

    #[inline(always)]
    const fn count(self) -> u64 {
        self.max.saturating_sub(self.min) as u64 + 1
    }
}

/// The order in which one flow tries the ports of a range: from a random one on, in steps of a random width.
///
/// Position and width are fractions of the range, in units of its 2^-32: no division and no branch on the way.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    min: u64,
    count: u64,
    position: u64,
    step: u64,
}

impl Order {
    /// `random` decides the order; ids of ICMP use all 16 bits.
    #[inline(always)]
    pub const fn new(transport: Transport, ports: Ports, random: u32) -> Self {
        let ports = match transport.has_port_range() {
            true => ports,
            false => Ports::ALL,
        };
        let count = ports.count();
        // At most a PROBES-th of the range, so that no try is wasted on a port tried before, and one port
        // if the range can be searched whole.
        let widths = count / PROBES;
        let width = 1 + (((random & 0xffff) as u64 * widths) >> 16);
        Self {
            min: ports.min as u64,
            count,
            position: random as u64,
            step: (u32::MAX as u64 / count + 1) * width,
        }
    }

    /// The next candidate, network order.
    #[inline(always)]
    pub const fn next(&mut self) -> [u8; 2] {
        self.position = (self.position + self.step) & u32::MAX as u64;
        let nth = (self.position * self.count) >> 32;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "nth is below count, so the sum is at most max"
        )]
        let port = (self.min + nth) as u16;
        port.to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn order(ports: Ports, random: u32) -> Order {
        Order::new(Transport::Tcp, ports, random)
    }

    proptest! {
        #[test]
        fn stays_in_the_range(a: u16, b: u16, random: u32) {
            let ports = Ports { min: a.min(b), max: a.max(b) };
            let mut order = order(ports, random);
            for _ in 0..PROBES {
                prop_assert!(ports.has(order.next()));
            }
        }

        #[test]
        fn a_small_range_is_searched_whole(min in 1u16..60_000, count in 1u16..=16, random: u32) {
            let ports = Ports { min, max: min + count - 1 };
            let mut order = order(ports, random);
            let tried: BTreeSet<_> = (0..count).map(|_| order.next()).collect();
            prop_assert_eq!(tried.len(), usize::from(count));
        }

        #[test]
        fn tries_are_hardly_ever_wasted(random: u32) {
            let mut order = order(Ports { min: 49_152, max: 65_535 }, random);
            let tried: BTreeSet<_> = (0..PROBES).map(|_| order.next()).collect();
            prop_assert!(tried.len() >= 15);
        }
    }

    #[test]
    fn more_ports_are_for_whoever_found_none() {
        let few = Ports { min: 5, max: 9 };
        let more = Ports { min: 1, max: 3 };
        assert_eq!(
            [0, 3, 4, 7].map(|round| few.or(more, round)),
            [few, few, more, more]
        );
        assert_eq!(few.or(Ports { min: 0, max: 0 }, 7), few);
    }

    #[test]
    fn ids_use_all_sixteen_bits() {
        let ports = Ports {
            min: 50_000,
            max: 50_000,
        };
        let mut order = Order::new(Transport::Icmp, ports, 1);
        let low = (0..PROBES)
            .filter(|_| u16::from_be_bytes(order.next()) < 49_152)
            .count();
        assert!(low > 5);
    }

    /// No port is much more likely than another, whatever the order starts with.
    #[test]
    fn first_candidates_are_spread_evenly() {
        let ports = Ports {
            min: 50_000,
            max: 50_099,
        };
        let mut hits = [0u32; 100];
        for seed in 0..100_000u32 {
            let port = order(ports, seed.wrapping_mul(2_654_435_761)).next();
            hits[usize::from(u16::from_be_bytes(port) - 50_000)] += 1;
        }
        assert!(hits.iter().all(|n| (800..1200).contains(n)), "{hits:?}");
    }
}
