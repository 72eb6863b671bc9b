//! The difference of two peer tables: linear in their size, so cheap enough for each lease change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Serialize;

use crate::actual::PeerMaps;
use crate::desired::{Peer, Peers};
use crate::mac::MacAddr;

/// So many changes are named one by one; more are counted.
const NAMED: usize = 4;

/// Entries to write and to remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PeerChanges {
    pub put: BTreeMap<Ipv4Net, Peer>,
    pub remove: BTreeSet<Ipv4Net>,
    pub put_vteps: BTreeMap<Ipv4Addr, u32>,
    pub remove_vteps: BTreeSet<Ipv4Addr>,
    pub put_macs: BTreeMap<MacAddr, u32>,
    pub remove_macs: BTreeSet<MacAddr>,
    /// A peer changes or goes, so flows may run on what was true of it. A new peer has no flows.
    pub ends_proofs: bool,
}

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

impl fmt::Display for PeerChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (put, removed) = (self.put.len(), self.remove.len());
        if put + removed > NAMED {
            return write!(f, "write {put} peers and remove {removed}");
        }
        if put + removed == 0 {
            return write!(
                f,
                "correct {} known sources",
                self.put_vteps.len()
                    + self.remove_vteps.len()
                    + self.put_macs.len()
                    + self.remove_macs.len()
            );
        }
        let put = self.put.iter().map(|(s, peer)| format!("{s} at {peer}"));
        let removed = self.remove.iter().map(|s| format!("{s} gone"));
        let all: Vec<_> = put.chain(removed).collect();
        write!(f, "update peers: {}", all.join(", "))
    }
}

impl PeerMaps {
    /// What the maps hold after the changes.
    pub fn apply(&mut self, changes: &PeerChanges) {
        let put = changes.put.iter().map(|(s, p)| (*s, Some(*p)));
        self.table.extend(put);
        self.table.retain(|s, _| !changes.remove.contains(s));
        self.vteps.extend(&changes.put_vteps);
        self.vteps
            .retain(|ip, _| !changes.remove_vteps.contains(ip));
        self.macs.extend(&changes.put_macs);
        self.macs
            .retain(|mac, _| !changes.remove_macs.contains(mac));
    }

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
