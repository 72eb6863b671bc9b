//! Who has how much of the table of source NAT.

use std::collections::HashMap as Counts;

use aya::maps::{HashMap, MapData, MapError};
use bytemuck::Pod;
use flannel_common::Ipv4;
use flannel_common::maps::{LASTING, SHARES, SNAT, YOUNG};
use flannel_common::snat::{Entry, Key, Lasting, Place, Seen, Share, Stand, Times, is_a_pods};

use super::error::unreadable_io;
use super::{View, ViewError};
use crate::dataplane::batch::Batches;
use crate::dataplane::{Wire, held};

/// What one pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnatShare {
    /// `0.0.0.0`: several, none of them a pod of this node.
    pub pod: Ipv4,
    /// Of connections to it, and not of those it makes.
    pub came_in: bool,
    /// Flows that do not last yet.
    pub young: u32,
    /// For how many of those the table has places.
    pub places: u32,
    /// Flows that were ended before they lasted, because there was no place.
    pub ended: u32,
    /// Flows without a place, which last, as the agent counted them; 0 if it has not.
    pub lasting: u32,
}

impl View {
    /// Those who have at least a half of the places, or as many flows as they may have. `now` in nanoseconds of the
    /// programs' clock.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn large_snat_shares(&self, now: u64) -> Result<Vec<SnatShare>, ViewError> {
        if [YOUNG, SHARES, LASTING]
            .iter()
            .any(|name| !held::exists(name, &self.pins))
        {
            return Ok(Vec::new());
        }
        let all = self.array::<Place>(YOUNG)?;
        let places = u32::try_from(all.len()).unwrap_or(u32::MAX);
        let mut taken = Counts::<u32, Vec<Key>>::new();
        for (_, place) in all.into_iter().filter(|(_, place)| place.key.way != 0) {
            taken.entry(place.share).or_default().push(place.key);
        }
        let table: HashMap<MapData, Wire<Key>, Wire<Entry>> = self.typed(SNAT)?;
        let times = self.snat_times()?;
        let mut large = Vec::new();
        let lasting = self.array::<Lasting>(LASTING)?;
        for ((index, share), (_, lasting)) in self.array::<Share>(SHARES)?.into_iter().zip(lasting)
        {
            let is_full = lasting.at != 0 && lasting.all() >= lasting.most;
            let lasting = if lasting.at == 0 { 0 } else { lasting.flows };
            let keys = taken.remove(&index).unwrap_or_default();
            let mut young = 0;
            // Most places are of flows that are over, where there is no flood.
            if keys.len() > places as usize / 2 {
                for key in keys {
                    young += u32::from(self.is_young(&table, &times, &key, now)?);
                }
            }
            if young > places / 2 || is_full {
                large.push(SnatShare {
                    pod: is_a_pods(index).map_or([0; 4], |_| share.pod),
                    came_in: is_a_pods(index).unwrap_or_default(),
                    young,
                    places,
                    ended: share.ended,
                    lasting,
                });
            }
        }
        Ok(large)
    }

    fn is_young(
        &self,
        table: &HashMap<MapData, Wire<Key>, Wire<Entry>>,
        times: &Times,
        key: &Key,
        now: u64,
    ) -> Result<bool, ViewError> {
        let entry = match table.get(&Wire(*key), 0) {
            Ok(Wire(entry)) => entry,
            Err(MapError::KeyNotFound) => return Ok(false),
            Err(error) => return Err(self.failed(SNAT, error)),
        };
        let other = self.other(table, key, &entry)?;
        let seen = other.map_or(Seen(entry.seen), |o| Seen(entry.seen).and(Seen(o.seen)));
        let last = other.map_or(0, |o| o.last_seen).max(entry.last_seen);
        let length = last.saturating_sub(entry.opened);
        let lifetime = times.lifetime(key.proto, seen, length);
        let stand = Stand::of(key.proto, seen, length, now.saturating_sub(last), lifetime);
        Ok([Stand::Young, Stand::Answered].contains(&stand))
    }

    fn array<V: Pod>(&self, name: &'static str) -> Result<Vec<(u32, V)>, ViewError> {
        let path = self.map_path(name);
        let failed = |error| unreadable_io(&path, error);
        let map = self.data(name)?;
        let mut all = Vec::new();
        for batch in Batches::<u32, V>::of(&map).map_err(failed)? {
            all.extend(batch.map_err(failed)?);
        }
        Ok(all)
    }
}
