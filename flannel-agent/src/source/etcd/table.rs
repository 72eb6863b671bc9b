//! What is known of all leases, as a pure state: keys and values in, the other nodes' leases out.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::store::Entry;
use crate::base::excerpt::excerpt;
use crate::flannel::lease::{LeaseAttrs, Leases, SubnetKey};

/// All leases by key, our own among them.
#[derive(Debug)]
pub(in crate::source) struct Table {
    own: Ipv4Net,
    entries: BTreeMap<SubnetKey, Known>,
    /// Keys whose trouble was logged, so that it is logged once.
    blamed: BTreeSet<String>,
}

#[derive(Debug)]
struct Known {
    mod_revision: i64,
    attrs: LeaseAttrs,
    etcd_lease: Option<i64>,
}

impl Table {
    pub(in crate::source) fn new(own: Ipv4Net) -> Self {
        Self {
            own,
            entries: BTreeMap::new(),
            blamed: BTreeSet::new(),
        }
    }

    /// Everything anew. A lease whose value became unreadable keeps what it said before.
    pub(in crate::source) fn replace(&mut self, listed: Vec<Entry>) {
        let present: BTreeSet<_> = listed.iter().map(|entry| entry.key).collect();
        self.entries.retain(|key, _| present.contains(key));
        self.add(listed);
    }

    /// What is listed anew, and what was known before.
    pub(in crate::source) fn add(&mut self, listed: Vec<Entry>) {
        for entry in listed {
            self.put(entry);
        }
    }

    /// Leases of `known` that `listed` lacks, unless one that is listed has a part of the same subnet. Gives their subnets.
    pub(in crate::source) fn remember_missing(
        &mut self,
        known: &Leases,
        listed: &[Entry],
    ) -> Vec<Ipv4Net> {
        let readable = listed.iter().filter(|entry| entry.attrs.is_ok());
        let taken: BTreeSet<Ipv4Net> = readable.map(|entry| entry.key.v4).collect();
        let overlaps = |subnet: &Ipv4Net| {
            let mut around = std::iter::successors(Some(*subnet), Ipv4Net::supernet);
            let around = around.any(|subnet| taken.contains(&subnet));
            let mut inside = taken
                .range(*subnet..)
                .take_while(|other| subnet.contains(*other));
            around || inside.next().is_some()
        };
        let missing = known
            .iter()
            .filter(|(subnet, _)| **subnet != self.own && !overlaps(subnet));
        let missing: Vec<_> = missing.collect();
        for (subnet, attrs) in &missing {
            let known = Known {
                // Before whatever is written from here on.
                mod_revision: 0,
                attrs: (*attrs).clone(),
                etcd_lease: None,
            };
            self.entries.insert(SubnetKey::from(**subnet), known);
        }
        missing.into_iter().map(|(subnet, _)| *subnet).collect()
    }

    /// A lease was written. Gives the subnet whose answer may have changed.
    pub(in crate::source) fn put(&mut self, entry: Entry) -> Ipv4Net {
        match entry.attrs {
            Ok(attrs) => {
                self.forgive(&entry.key.to_string());
                let known = Known {
                    mod_revision: entry.mod_revision,
                    attrs,
                    etcd_lease: entry.etcd_lease,
                };
                self.entries.insert(entry.key, known);
            }
            Err(error) => {
                let key = entry.key.to_string();
                let kept = self.entries.contains_key(&entry.key);
                self.blame(&key, kept, &error);
            }
        }
        entry.key.v4
    }

    pub(in crate::source) fn delete(&mut self, key: SubnetKey) -> Ipv4Net {
        self.entries.remove(&key);
        self.forgive(&key.to_string());
        key.v4
    }

    /// Says once that a key or its value is not a lease's, and how it is treated.
    pub(in crate::source) fn blame(
        &mut self,
        key: &str,
        kept: bool,
        error: &dyn std::fmt::Display,
    ) {
        if self.blamed.insert(key.to_owned()) {
            let instead = if kept {
                "keeping what it said before"
            } else {
                "skipping it"
            };
            tracing::warn!(lease = excerpt(key), "{error}; {instead}");
        }
    }

    pub(in crate::source) fn forgive(&mut self, key: &str) {
        self.blamed.remove(key);
    }

    /// Our lease is now `own`. Gives the subnets whose answer may have changed.
    pub(in crate::source) fn set_own(&mut self, own: Ipv4Net) -> [Ipv4Net; 2] {
        [std::mem::replace(&mut self.own, own), own]
    }

    /// Another node's lease of `subnet`. Of two keys for it (with and without an IPv6 part), the
    /// one written last.
    pub(in crate::source) fn other(&self, subnet: Ipv4Net) -> Option<&LeaseAttrs> {
        self.held(subnet).map(|(attrs, _)| attrs)
    }

    /// The same with the etcd lease that ends it.
    pub(in crate::source) fn held(&self, subnet: Ipv4Net) -> Option<(&LeaseAttrs, Option<i64>)> {
        if subnet == self.own {
            return None;
        }
        self.entries
            .range(SubnetKey::from(subnet)..)
            .take_while(|(key, _)| key.v4 == subnet)
            .max_by_key(|(_, known)| known.mod_revision)
            .map(|(_, known)| (&known.attrs, known.etcd_lease))
    }

    /// All subnets that somebody has.
    pub(in crate::source) fn subnets(&self) -> BTreeSet<Ipv4Net> {
        self.entries.keys().map(|key| key.v4).collect()
    }

    /// All leases of other nodes.
    pub(in crate::source) fn others(&self) -> BTreeMap<Ipv4Net, LeaseAttrs> {
        self.entries
            .keys()
            .filter_map(|key| Some((key.v4, self.other(key.v4)?.clone())))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn subnet(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    /// `key` written at `revision` by the node 192.0.2.`host`.
    fn lease(key: &str, host: u8, revision: i64) -> Entry {
        Entry {
            key: key.parse().unwrap(),
            attrs: Ok(LeaseAttrs::host_gw(Ipv4Addr::new(192, 0, 2, host))),
            created: 1,
            mod_revision: revision,
            etcd_lease: Some(1),
        }
    }

    fn unreadable(key: &str, revision: i64) -> Entry {
        Entry {
            attrs: LeaseAttrs::from_json(b"nonsense"),
            ..lease(key, 0, revision)
        }
    }

    fn table() -> Table {
        let mut table = Table::new(subnet("10.1.1.0/24"));
        table.replace(vec![lease("10.1.1.0-24", 1, 1), lease("10.1.2.0-24", 2, 2)]);
        table
    }

    /// Subnet's third byte → host, of all others.
    fn others(table: &Table) -> Vec<(u8, u8)> {
        let others = table.others();
        let pairs = others
            .iter()
            .map(|(subnet, attrs)| (subnet.network().octets()[2], attrs.public_ip.octets()[3]));
        pairs.collect()
    }

    #[test]
    fn wa1_the_own_lease_is_never_among_the_others() {
        let mut table = table();
        assert_eq!(others(&table), [(2, 2)]);
        table.put(lease("10.1.1.0-24", 1, 3));
        assert_eq!(others(&table), [(2, 2)]);
        assert_eq!(table.other(subnet("10.1.1.0/24")), None);
    }

    #[test]
    fn puts_and_deletes_name_the_subnet() {
        let mut table = table();
        assert_eq!(table.put(lease("10.1.3.0-24", 3, 3)), subnet("10.1.3.0/24"));
        assert_eq!(others(&table), [(2, 2), (3, 3)]);
        let gone = table.delete("10.1.2.0-24".parse().unwrap());
        assert_eq!(gone, subnet("10.1.2.0/24"));
        assert_eq!(others(&table), [(3, 3)]);
    }

    #[test]
    fn a_new_list_drops_what_it_lacks() {
        let mut table = table();
        table.replace(vec![lease("10.1.4.0-24", 4, 9)]);
        assert_eq!(others(&table), [(4, 4)]);
    }

    #[test]
    fn what_a_restored_etcd_lacks_counts_until_it_is_given_up() {
        let mut table = table();
        table.add(vec![lease("10.1.4.0-24", 4, 1)]);
        assert_eq!(others(&table), [(2, 2), (4, 4)]);
        table.replace(vec![lease("10.1.4.0-24", 4, 1)]);
        assert_eq!(others(&table), [(4, 4)]);
    }

    #[test]
    fn what_was_reached_before_counts_where_the_first_list_has_nothing() {
        let known: BTreeMap<_, _> = [
            ("10.1.1.0/24", 1),
            ("10.1.2.0/24", 2),
            ("10.1.3.0/24", 3),
            ("10.1.4.0/24", 4),
            ("10.1.16.0/20", 16),
            ("10.1.33.0/24", 33),
        ]
        .map(|(net, host)| {
            (
                subnet(net),
                LeaseAttrs::host_gw(Ipv4Addr::new(192, 0, 2, host)),
            )
        })
        .into();
        let listed = || {
            vec![
                lease("10.1.2.0-24", 22, 2),
                unreadable("10.1.3.0-24", 3),
                lease("10.1.17.0-24", 17, 4),
                lease("10.1.32.0-20", 32, 5),
            ]
        };
        let mut table = Table::new(subnet("10.1.1.0/24"));
        let missing = table.remember_missing(&known.into(), &listed());
        assert_eq!(missing, [subnet("10.1.3.0/24"), subnet("10.1.4.0/24")]);
        table.add(listed());
        let listed_ones = [(17, 17), (32, 32)];
        let all = [&[(2, 22), (3, 3), (4, 4)][..], &listed_ones].concat();
        assert_eq!(others(&table), all);
        table.replace(listed());
        let all = [&[(2, 22), (3, 3)][..], &listed_ones].concat();
        assert_eq!(others(&table), all);
    }

    #[test]
    fn a_value_that_became_unreadable_keeps_its_last_meaning() {
        let mut table = table();
        table.put(unreadable("10.1.2.0-24", 3));
        assert_eq!(others(&table), [(2, 2)]);
        table.replace(vec![
            unreadable("10.1.2.0-24", 3),
            unreadable("10.1.3.0-24", 4),
        ]);
        assert_eq!(others(&table), [(2, 2)]);
        table.put(lease("10.1.3.0-24", 3, 5));
        assert_eq!(others(&table), [(2, 2), (3, 3)]);
    }

    #[test]
    fn of_two_keys_for_a_subnet_the_newer_counts() {
        let mut table = table();
        table.put(lease("10.1.2.0-24&fd00::-64", 7, 3));
        assert_eq!(others(&table), [(2, 7)]);
        table.delete("10.1.2.0-24&fd00::-64".parse().unwrap());
        assert_eq!(others(&table), [(2, 2)]);
    }

    #[test]
    fn a_lost_subnet_becomes_another_nodes() {
        let mut table = table();
        table.put(lease("10.1.1.0-24", 9, 3));
        let touched = table.set_own(subnet("10.1.5.0/24"));
        assert_eq!(touched, [subnet("10.1.1.0/24"), subnet("10.1.5.0/24")]);
        assert_eq!(others(&table), [(1, 9), (2, 2)]);
    }
}
