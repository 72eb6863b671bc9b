//! Which of the uplink's addresses is ours: the one that was, as long as it is there.
//!
//! flanneld chooses once, when it starts. We look again with every change, so an address that somebody lends the device for a
//! while – keepalived's virtual address, which moves from node to node – must not become ours; nor at a start, where a lease
//! that names it is another node's.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::flannel::lease::LeaseAttrs;
use crate::node::net::Address;

/// What is known of this node's address.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// In use.
    current: Option<Ipv4Addr>,
    /// In use since the start.
    first: Option<Ipv4Addr>,
    /// PublicIP of the lease of the subnet that this node had.
    of_lease: Option<Ipv4Addr>,
    /// PublicIPs of all leases.
    named: BTreeSet<Ipv4Addr>,
}

impl Memory {
    /// At the start: what the leases say, and the subnet of the previous run.
    pub fn of_leases<'a>(
        leases: impl IntoIterator<Item = (&'a Ipv4Net, &'a LeaseAttrs)>,
        previous: Option<Ipv4Net>,
    ) -> Self {
        let mut memory = Self::default();
        for (subnet, attrs) in leases {
            if Some(*subnet) == previous {
                memory.of_lease = Some(attrs.public_ip);
            }
            memory.named.insert(attrs.public_ip);
        }
        memory
    }

    /// From here on this address is in use; what the leases said at the start is over.
    pub fn keep(&mut self, address: Ipv4Addr) {
        self.current = Some(address);
        self.first.get_or_insert(address);
        self.of_lease = None;
        self.named.clear();
    }

    /// The one that was ours, if it is among `held`.
    pub(super) fn kept(&self, held: &[&Address]) -> Option<Ipv4Addr> {
        let of_lease = self.of_lease.filter(|ip| is_held(*ip, held));
        of_lease.or_else(|| self.in_use(held))
    }

    /// The same, but for what is known from leases only.
    pub(super) fn in_use(&self, held: &[&Address]) -> Option<Ipv4Addr> {
        // One that was there while ours was away.
        let stopgap = |ip: &Ipv4Addr| {
            let lent = held.iter().any(|a| a.ip() == *ip && is_lent(a, held));
            lent && Some(*ip) != self.first
        };
        let current = self.current.filter(|ip| !stopgap(ip));
        let mut before = [current, self.first].into_iter().flatten();
        before.find(|ip| is_held(*ip, held))
    }

    /// The address among `held`, those of the device in the kernel's order; `public_ip` is what the operator named.
    pub(super) fn choose(
        &self,
        held: &[&Address],
        public_ip: Option<Ipv4Addr>,
    ) -> Option<Ipv4Addr> {
        if let Some(named) = public_ip.filter(|ip| is_held(*ip, held)) {
            return Some(named);
        }
        if let Some(kept) = self.kept(held) {
            return Some(kept);
        }
        let best = best(held)?;
        // A lease names an address that was here before that one came.
        let at = |ip: Ipv4Addr| held.iter().position(|a| a.ip() == ip);
        let mut named = held
            .iter()
            .map(|a| a.ip())
            .filter(|ip| self.named.contains(ip));
        Some(named.next().filter(|ip| at(*ip) < at(best)).unwrap_or(best))
    }
}

fn is_held(ip: Ipv4Addr, held: &[&Address]) -> bool {
    held.iter().any(|a| a.ip() == ip)
}

/// flanneld's order: global before link-local, permanent before dynamic, the kernel's order within. Deprecated addresses
/// are for old connections only.
fn best(held: &[&Address]) -> Option<Ipv4Addr> {
    let usable = held.iter().filter(|address| !address.deprecated);
    usable
        .min_by_key(|address| {
            let lasting = address.permanent && !is_lent(address, held);
            (!address.global, !lasting)
        })
        .map(|address| address.ip())
}

/// Whether it looks like a virtual address beside the node's own, which DHCP gave: alone in its prefix, or the second in
/// that of another.
fn is_lent(address: &Address, held: &[&Address]) -> bool {
    let beside = address.net.prefix_len() == 32 || address.secondary;
    let own = |a: &&&Address| {
        a.global && !a.permanent && !a.secondary && !a.deprecated && a.net.prefix_len() < 32
    };
    address.permanent && beside && held.iter().any(|a| own(&a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::net::fixtures;

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    fn address(last: u8, len: u8, change: fn(&mut Address)) -> Address {
        let mut address = fixtures::address(2, &format!("192.0.2.{last}/{len}"));
        change(&mut address);
        address
    }

    fn dynamic(last: u8) -> Address {
        address(last, 24, |a| a.permanent = false)
    }

    /// keepalived's, as it adds it by default, and inside the device's prefix.
    fn virtual_addresses() -> [Address; 2] {
        [
            address(100, 32, |_| ()),
            address(100, 24, |a| a.secondary = true),
        ]
    }

    fn chosen(memory: &Memory, held: &[Address]) -> Option<u8> {
        let held: Vec<&Address> = held.iter().collect();
        memory.choose(&held, None).map(|ip| ip.octets()[3])
    }

    fn with(address: u8) -> Memory {
        let mut memory = Memory::default();
        memory.keep(ip(address));
        memory
    }

    fn leases(all: &[(&str, u8)], previous: Option<&str>) -> Memory {
        let leases: Vec<(Ipv4Net, LeaseAttrs)> = all
            .iter()
            .map(|(subnet, last)| (subnet.parse().unwrap(), LeaseAttrs::host_gw(ip(*last))))
            .collect();
        let leases = leases.iter().map(|(subnet, attrs)| (subnet, attrs));
        Memory::of_leases(leases, previous.map(|subnet| subnet.parse().unwrap()))
    }

    #[test]
    fn a_virtual_address_comes_and_goes_and_is_never_ours() {
        for lent in virtual_addresses() {
            let both = [dynamic(11), lent.clone()];
            assert_eq!(chosen(&with(11), &both), Some(11), "{lent:?}");
            assert_eq!(chosen(&Memory::default(), &both), Some(11), "at a start");
        }
        let other_prefix = [dynamic(11), fixtures::address(2, "198.51.100.9/24")];
        assert_eq!(chosen(&with(11), &other_prefix), Some(11));
        // As flanneld would.
        assert_eq!(chosen(&Memory::default(), &other_prefix), Some(9));
    }

    #[test]
    fn the_address_in_use_stays_whatever_else_there_is() {
        let held = [
            address(9, 24, |_| ()),
            address(11, 24, |a| a.deprecated = true),
        ];
        assert_eq!(chosen(&with(11), &held), Some(11));
        assert_eq!(chosen(&Memory::default(), &held), Some(9));
    }

    #[test]
    fn a_node_whose_address_was_away_for_a_moment_does_not_stay_with_a_lent_one() {
        let [lent, _] = virtual_addresses();
        let mut memory = with(11);
        assert_eq!(chosen(&memory, std::slice::from_ref(&lent)), Some(100));
        memory.keep(ip(100));
        assert_eq!(chosen(&memory, &[lent.clone(), dynamic(11)]), Some(11));
        // Renumbered for good.
        assert_eq!(chosen(&memory, &[dynamic(12), lent]), Some(12));
        memory.keep(ip(12));
        assert_eq!(chosen(&memory, &[dynamic(12), dynamic(11)]), Some(12));
    }

    #[test]
    fn what_was_chosen_at_the_start_is_no_stopgap() {
        let own = address(11, 32, |_| ());
        assert_eq!(chosen(&with(11), &[own, dynamic(12)]), Some(11));
    }

    #[test]
    fn at_a_restart_the_address_of_our_own_lease_counts() {
        let held = [dynamic(11), address(12, 24, |_| ())];
        let all = [("10.1.1.0/24", 11), ("10.1.2.0/24", 12)];
        assert_eq!(chosen(&leases(&all, Some("10.1.1.0/24")), &held), Some(11));
        assert_eq!(chosen(&leases(&all, Some("10.1.2.0/24")), &held), Some(12));
        // Another node has that subnet by now.
        let all = [("10.1.1.0/24", 77)];
        assert_eq!(chosen(&leases(&all, Some("10.1.1.0/24")), &held), Some(12));
    }

    #[test]
    fn without_a_memory_of_the_subnet_the_lease_of_the_first_address_is_ours() {
        let other = fixtures::address(2, "198.51.100.9/24");
        let held = [dynamic(11), other];
        let ours = ("10.1.1.0/24", 11);
        assert_eq!(chosen(&leases(&[ours], None), &held), Some(11));
        // And another node's lease names the virtual address that is here now.
        let [lent, _] = virtual_addresses();
        let held = [dynamic(11), lent];
        for all in [&[("10.1.2.0/24", 100)][..], &[ours, ("10.1.2.0/24", 100)]] {
            assert_eq!(chosen(&leases(all, None), &held), Some(11), "{all:?}");
        }
    }
}
