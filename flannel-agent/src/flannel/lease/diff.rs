//! The difference of two lease snapshots, by content.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;

use super::LeaseAttrs;

/// One subnet's difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Added(Ipv4Net, LeaseAttrs),
    /// Same subnet, other owner or endpoint; with what it says now.
    Changed(Ipv4Net, LeaseAttrs),
    Removed(Ipv4Net),
}

/// What turns `old` into `new`, in order of subnets. Leases that say the same give nothing.
#[must_use]
pub fn diff(
    old: &BTreeMap<Ipv4Net, LeaseAttrs>,
    new: &BTreeMap<Ipv4Net, LeaseAttrs>,
) -> Vec<Change> {
    let removed = old
        .keys()
        .filter(|subnet| !new.contains_key(subnet))
        .map(|subnet| (*subnet, Change::Removed(*subnet)));
    let written = new.iter().filter_map(|(subnet, attrs)| {
        let change = match old.get(subnet) {
            None => Change::Added(*subnet, attrs.clone()),
            Some(before) if before != attrs => Change::Changed(*subnet, attrs.clone()),
            Some(_) => return None,
        };
        Some((*subnet, change))
    });
    let by_subnet: BTreeMap<_, _> = removed.chain(written).collect();
    by_subnet.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn subnet(n: u8) -> Ipv4Net {
        Ipv4Net::new(Ipv4Addr::new(10, 1, n, 0), 24).unwrap()
    }

    fn attrs(n: u8) -> LeaseAttrs {
        LeaseAttrs::host_gw(Ipv4Addr::new(192, 0, 2, n))
    }

    fn apply(
        old: &BTreeMap<Ipv4Net, LeaseAttrs>,
        changes: &[Change],
    ) -> BTreeMap<Ipv4Net, LeaseAttrs> {
        let mut leases = old.clone();
        for change in changes {
            match change.clone() {
                Change::Added(subnet, attrs) => assert_eq!(leases.insert(subnet, attrs), None),
                Change::Changed(subnet, attrs) => {
                    assert_ne!(leases.insert(subnet, attrs.clone()).unwrap(), attrs);
                }
                Change::Removed(subnet) => assert!(leases.remove(&subnet).is_some()),
            }
        }
        leases
    }

    #[test]
    fn one_of_each() {
        let old = BTreeMap::from([
            (subnet(1), attrs(1)),
            (subnet(2), attrs(2)),
            (subnet(3), attrs(3)),
        ]);
        let new = BTreeMap::from([
            (subnet(1), attrs(1)),
            (subnet(2), attrs(22)),
            (subnet(4), attrs(4)),
        ]);
        assert_eq!(
            diff(&old, &new),
            [
                Change::Changed(subnet(2), attrs(22)),
                Change::Removed(subnet(3)),
                Change::Added(subnet(4), attrs(4)),
            ]
        );
    }

    proptest! {
        #[test]
        fn the_difference_makes_new_of_old(
            old in proptest::collection::btree_map(0u8..20, 0u8..4, 0..20),
            new in proptest::collection::btree_map(0u8..20, 0u8..4, 0..20),
        ) {
            let leases = |map: BTreeMap<u8, u8>| -> BTreeMap<_, _> {
                map.into_iter().map(|(n, ip)| (subnet(n), attrs(ip))).collect()
            };
            let (old, new) = (leases(old), leases(new));
            prop_assert_eq!(apply(&old, &diff(&old, &new)), new);
            prop_assert_eq!(diff(&old, &old), vec![]);
        }
    }
}
