//! The table of source NAT, flow by flow.

use aya::maps::{Array, HashMap, MapData, MapError};
use flannel_common::maps::{SNAT, TIMES};
use flannel_common::snat::{Entry, Key, Times, WAY_IN, other_half};

use super::error::unreadable_io;
use super::{View, ViewError};
use crate::dataplane::batch::Batches;
use crate::dataplane::{Wire, held};

/// A flow as the table holds it: one of its halves, and the other where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnatFlow {
    pub key: Key,
    pub entry: Entry,
    pub other: Option<Entry>,
}

impl View {
    /// How long flows live.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn snat_times(&self) -> Result<Times, ViewError> {
        // Of an agent before it had them, whose programs go on: they have the kernel's.
        if !held::exists(TIMES, &self.pins) {
            return Ok(Times::DEFAULT);
        }
        let map: Array<MapData, Wire<Times>> = self.typed(TIMES)?;
        let times = map.get(&0, 0).map_err(|e| self.failed(TIMES, e))?;
        Ok(times.0.or_default())
    }

    /// Shows every flow to `look`, once, a few thousand entries in memory at a time. The table is not frozen,
    /// and no entry counts as used by being looked at: neither by the batch nor by the look-up of the other
    /// half (`htab_lru_map_lookup_elem_sys`).
    ///
    /// # Errors
    /// If the map cannot be read, or what `look` returns.
    pub fn snat<E: From<ViewError>>(
        &self,
        mut look: impl FnMut(&SnatFlow) -> Result<(), E>,
    ) -> Result<(), E> {
        let table: HashMap<MapData, Wire<Key>, Wire<Entry>> = self.typed(SNAT)?;
        self.snat_entries(|key, entry| {
            let other = self.other(&table, key, entry)?;
            // The out half speaks for both.
            if key.way == WAY_IN && other.is_some() {
                return Ok(());
            }
            look(&SnatFlow {
                key: *key,
                entry: *entry,
                other,
            })
        })
    }

    pub(super) fn snat_entries<E: From<ViewError>>(
        &self,
        mut look: impl FnMut(&Key, &Entry) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = self.map_path(SNAT);
        let failed = |error| unreadable_io(&path, error);
        let map = self.data(SNAT)?;
        for batch in Batches::<Key, Entry>::of(&map).map_err(failed)? {
            for (key, entry) in batch.map_err(failed)? {
                look(&key, &entry)?;
            }
        }
        Ok(())
    }

    pub(super) fn other(
        &self,
        table: &HashMap<MapData, Wire<Key>, Wire<Entry>>,
        key: &Key,
        entry: &Entry,
    ) -> Result<Option<Entry>, ViewError> {
        let Some(other) = other_half(key, entry) else {
            return Ok(None);
        };
        match table.get(&Wire(other), 0) {
            Ok(Wire(other)) => Ok(other.pairs_with(key.source_of_half()).then_some(other)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(self.failed(SNAT, error)),
        }
    }
}
