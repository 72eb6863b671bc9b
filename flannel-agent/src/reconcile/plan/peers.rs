//! The difference of two peer tables: linear in their size, so cheap enough for each lease change.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::dataplane::{PeerChanges, PeerMaps};
use crate::reconcile::desired::Peers;

impl PeerChanges {
    /// What has to change in the maps; `None` if nothing.
    #[must_use]
    pub fn between(wanted: &Peers, held: &PeerMaps) -> Option<Self> {
        let mut changes = Self::default();
        for (subnet, wanted, held) in side_by_side(&wanted.table, &held.table) {
            match wanted {
                Some(peer) if held == Some(&Some(*peer)) => continue,
                Some(peer) => {
                    changes.put.insert(*subnet, *peer);
                }
                None => {
                    changes.remove.insert(*subnet);
                }
            }
            changes.ends_proofs |= held.is_some();
        }
        (changes.put_vteps, changes.remove_vteps) = counts(&wanted.vteps, &held.vteps);
        (changes.put_macs, changes.remove_macs) = counts(&wanted.macs, &held.macs);
        (changes != Self::default()).then_some(changes)
    }
}

/// What to write, and what to remove.
fn counts<K: Ord + Copy>(
    wanted: &BTreeMap<K, u32>,
    held: &BTreeMap<K, u32>,
) -> (BTreeMap<K, u32>, BTreeSet<K>) {
    let (mut put, mut remove) = (BTreeMap::new(), BTreeSet::new());
    for (key, wanted, held) in side_by_side(wanted, held) {
        match wanted {
            Some(count) if held == Some(count) => {}
            Some(count) => {
                put.insert(*key, *count);
            }
            None => {
                remove.insert(*key);
            }
        }
    }
    (put, remove)
}

/// What two maps have under each key, in one walk: to look each of thousands up in the other one takes most of a change.
fn side_by_side<'a, K: Ord, A, B>(
    one: &'a BTreeMap<K, A>,
    other: &'a BTreeMap<K, B>,
) -> impl Iterator<Item = (&'a K, Option<&'a A>, Option<&'a B>)> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (one.peek(), other.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let a = one.next_if(|_| order.is_le());
        let b = other.next_if(|_| order.is_ge());
        let key = a.map(|(key, _)| key).or(b.map(|(key, _)| key))?;
        Some((key, a.map(|(_, value)| value), b.map(|(_, value)| value)))
    })
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
