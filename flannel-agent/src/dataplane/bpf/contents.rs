//! What the maps hold, be they ours or left by an earlier agent.

use std::collections::{BTreeMap, BTreeSet};

use flannel_common::maps::{EPOCH, EXEMPT, LENT, MACS, OUTLETS, PEERS, STEPS, TIMES, VTEPS};
use flannel_common::program::Program;
use flannel_common::snat::Times;
use ipnet::Ipv4Net;

use super::Bpf;
use crate::dataplane::maps::Maps;
use crate::dataplane::outlet_maps::OutletMaps;
use crate::dataplane::outlets::Sources;
use crate::dataplane::programs::classifier;
use crate::dataplane::snat_maps;
use crate::dataplane::{DataplaneError, PeerChanges, PeerMaps};

impl Bpf {
    pub(crate) fn update_peers(&mut self, changes: &PeerChanges) -> Result<(), DataplaneError> {
        let running = self.loaded.as_mut().ok_or(DataplaneError::NotLoaded)?;
        running.maps.update(changes)
    }

    pub(crate) fn bump_epoch(&mut self) -> Result<(), DataplaneError> {
        let running = self.loaded.as_mut().ok_or(DataplaneError::NotLoaded)?;
        running.maps.bump_epoch()
    }

    /// Makes the loaded steps those that are jumped to, by our programs and those of an earlier agent.
    pub(crate) fn set_steps(&mut self) -> Result<(), DataplaneError> {
        let running = self.loaded.as_mut().ok_or(DataplaneError::NotLoaded)?;
        for step in Program::STEPS {
            let program = classifier(&mut running.ebpf, running.told.globals.wire, step)?;
            running.snat.set_step(step, program)?;
        }
        Ok(())
    }

    pub(crate) fn clear_steps(&mut self) -> Result<(), DataplaneError> {
        let running = self.loaded.as_mut().ok_or(DataplaneError::NotLoaded)?;
        running.snat.clear_steps()
    }

    pub(crate) fn update_exempt(
        &mut self,
        put: &BTreeSet<Ipv4Net>,
        remove: &BTreeSet<Ipv4Net>,
    ) -> Result<(), DataplaneError> {
        let running = self.loaded.as_mut().ok_or(DataplaneError::NotLoaded)?;
        running.snat.update_exempt(put, remove)
    }

    /// Destinations that the map exempts from source NAT, be it ours or left by an earlier agent.
    pub(crate) fn exempt(&self) -> Result<BTreeSet<Ipv4Net>, DataplaneError> {
        if let Some(running) = &self.loaded {
            return running.snat.exempt();
        }
        if self.has_usable_pins(&[EXEMPT])? {
            snat_maps::pinned_exempt(&self.pins)
        } else {
            Ok(BTreeSet::new())
        }
    }

    pub(crate) fn set_times(&mut self, times: &Times) -> Result<(), DataplaneError> {
        let running = self.loaded.as_mut().ok_or(DataplaneError::NotLoaded)?;
        running.snat.set_times(times)
    }

    /// How long translated flows live, as the map has it, be it ours or left by an earlier agent. All zero: nobody has written there.
    pub(crate) fn times(&self) -> Result<Option<Times>, DataplaneError> {
        if let Some(running) = &self.loaded {
            return running.snat.times().map(Some);
        }
        match self.has_usable_pins(&[TIMES])? {
            true => snat_maps::pinned_times(&self.pins).map(Some),
            false => Ok(None),
        }
    }

    pub(crate) fn update_outlets(
        &mut self,
        put: &BTreeMap<u32, Sources>,
        remove: &BTreeSet<u32>,
    ) -> Result<(), DataplaneError> {
        let running = self.loaded.as_mut().ok_or(DataplaneError::NotLoaded)?;
        running.snat.outlets.update(put, remove)
    }

    /// Addresses that flows leave as, as the maps hold them, be they ours or left by an earlier agent.
    pub(crate) fn outlets(&self) -> Result<BTreeMap<u32, Sources>, DataplaneError> {
        if let Some(running) = &self.loaded {
            return running.snat.outlets.list();
        }
        if self.has_usable_pins(&[OUTLETS, LENT])? {
            OutletMaps::pinned(&self.pins)?.list()
        } else {
            Ok(BTreeMap::new())
        }
    }

    /// Kernel ids of the steps that can be jumped to.
    pub(crate) fn step_ids(&self) -> Result<BTreeMap<Program, u32>, DataplaneError> {
        if let Some(map) = self.kept.map(STEPS).filter(|_| self.unpinned) {
            return snat_maps::steps_of(map);
        }
        match self.has_usable_pins(&[STEPS])? {
            true => snat_maps::pinned_steps(&self.pins),
            false => Ok(BTreeMap::new()),
        }
    }

    fn has_usable_pins(&self, names: &[&str]) -> Result<bool, DataplaneError> {
        self.object.has_usable_pins(names, &self.pins)
    }

    /// What the maps hold, be they ours or left by an earlier agent.
    pub(crate) fn peers(&self) -> Result<PeerMaps, DataplaneError> {
        if let Some(running) = &self.loaded {
            return running.maps.list();
        }
        if self.has_usable_pins(&[EPOCH, PEERS, VTEPS, MACS])? {
            Maps::from_pins(&self.pins)?.list()
        } else {
            Ok(PeerMaps::default())
        }
    }
}
