//! The difference of two peer tables: linear in their size, so cheap enough for each lease change.

use ipnet::Ipv4Net;

use crate::dataplane::{PeerChanges, PeerMaps};
use crate::reconcile::desired::Peers;

impl PeerChanges {
    /// What has to change in the maps; `None` if nothing.
    #[must_use]
    pub fn between(wanted: &Peers, held: &PeerMaps) -> Option<Self> {
        let put = wanted
            .table
            .iter()
            .filter(|(subnet, peer)| held.table.get(*subnet) != Some(&Some(**peer)));
        let put_vteps = wanted
            .vteps
            .iter()
            .filter(|(ip, leases)| held.vteps.get(*ip) != Some(*leases));
        let remove = held.table.keys().filter(|s| !wanted.table.contains_key(s));
        let remove_vteps = held.vteps.keys().filter(|i| !wanted.vteps.contains_key(i));
        let put_macs = wanted
            .macs
            .iter()
            .filter(|(mac, leases)| held.macs.get(*mac) != Some(*leases));
        let remove_macs = held.macs.keys().filter(|m| !wanted.macs.contains_key(m));
        let known = |subnet: &&Ipv4Net| held.table.contains_key(*subnet);
        let ends_proofs = remove.clone().next().is_some() || put.clone().any(|(s, _)| known(&s));
        let changes = Self {
            ends_proofs,
            put: put.map(|(subnet, peer)| (*subnet, *peer)).collect(),
            remove: remove.copied().collect(),
            put_vteps: put_vteps.map(|(ip, leases)| (*ip, *leases)).collect(),
            remove_vteps: remove_vteps.copied().collect(),
            put_macs: put_macs.map(|(mac, leases)| (*mac, *leases)).collect(),
            remove_macs: remove_macs.copied().collect(),
        };
        (changes != Self::default()).then_some(changes)
    }
}

impl PeerMaps {
    /// The peers that a map with these entries stands for.
    #[must_use]
    pub fn known(&self) -> Peers {
        let table = self.table.iter();
        Peers {
            table: table.filter_map(|(s, p)| Some((*s, (*p)?))).collect(),
            vteps: self.vteps.clone(),
            macs: self.macs.clone(),
            ..Peers::default()
        }
    }
}

impl From<&Peers> for PeerMaps {
    fn from(peers: &Peers) -> Self {
        Self {
            table: peers.table.iter().map(|(s, p)| (*s, Some(*p))).collect(),
            vteps: peers.vteps.clone(),
            macs: peers.macs.clone(),
        }
    }
}
