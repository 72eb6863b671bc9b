//! The maps of source NAT that the agent writes: steps, exempt destinations, time-outs, and [those](super::outlet_maps) of addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::os::fd::BorrowedFd;

use aya::Ebpf;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, Map, MapData, MapError, ProgramArray};
use aya::programs::SchedClassifier;
use flannel_common::Ipv4;
use flannel_common::maps::{EXEMPT, STEPS, TIMES};
use flannel_common::program::Program;
use flannel_common::snat::Times;
use ipnet::Ipv4Net;

use super::bpffs::Pins;
use super::maps::{gone, key, pinned, prefix, take, typed};
use super::outlet_maps::OutletMaps;
use super::{DataplaneError, Wire};

/// Value of every entry of [`EXEMPT`].
const IS_EXEMPT: u8 = 1;

pub(super) struct SnatMaps {
    steps: ProgramArray<MapData>,
    exempt: LpmTrie<MapData, Ipv4, u8>,
    times: Array<MapData, Wire<Times>>,
    pub(super) outlets: OutletMaps,
}

impl fmt::Debug for SnatMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnatMaps").finish_non_exhaustive()
    }
}

impl SnatMaps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DataplaneError> {
        Ok(Self {
            steps: take(ebpf, STEPS)?,
            exempt: take(ebpf, EXEMPT)?,
            times: take(ebpf, TIMES)?,
            outlets: OutletMaps::take(ebpf)?,
        })
    }

    /// From the next packet on, jumps to `step` end in `program`.
    pub(super) fn set_step(
        &mut self,
        step: Program,
        program: &SchedClassifier,
    ) -> Result<(), DataplaneError> {
        let fd = program
            .fd()
            .map_err(|error| DataplaneError::load(step.name(), error))?;
        self.steps
            .set(step.step(), fd, 0)
            .map_err(|e| DataplaneError::map(STEPS, "write", e))
    }

    pub(super) fn clear_steps(&mut self) -> Result<(), DataplaneError> {
        for step in Program::STEPS {
            gone(self.steps.clear_index(&step.step()))
                .map_err(|e| DataplaneError::map(STEPS, "clear", e))?;
        }
        Ok(())
    }

    pub(super) fn times(&self) -> Result<Times, DataplaneError> {
        read_times(&self.times)
    }

    pub(super) fn set_times(&mut self, times: &Times) -> Result<(), DataplaneError> {
        self.times
            .set(0, Wire(*times), 0)
            .map_err(|e| DataplaneError::map(TIMES, "write", e))
    }

    pub(super) fn exempt(&self) -> Result<BTreeSet<Ipv4Net>, DataplaneError> {
        list_exempt(&self.exempt)
    }

    pub(super) fn update_exempt(
        &mut self,
        put: &BTreeSet<Ipv4Net>,
        remove: &BTreeSet<Ipv4Net>,
    ) -> Result<(), DataplaneError> {
        for net in put {
            self.exempt
                .insert(&key(*net), IS_EXEMPT, 0)
                .map_err(|e| DataplaneError::map(EXEMPT, "write", e))?;
        }
        for net in remove {
            gone(self.exempt.remove(&key(*net)))
                .map_err(|e| DataplaneError::map(EXEMPT, "remove", e))?;
        }
        Ok(())
    }
}

/// How long flows live by the pinned map; the caller has checked its shape.
pub(super) fn pinned_times(pins: &Pins) -> Result<Times, DataplaneError> {
    read_times(&pinned(TIMES, pins)?)
}

fn read_times(map: &Array<MapData, Wire<Times>>) -> Result<Times, DataplaneError> {
    let times = map.get(&0, 0);
    times.map_or_else(
        |error| Err(DataplaneError::map(TIMES, "read", error)),
        |Wire(times)| Ok(times),
    )
}

/// The pinned map's entries; the caller has checked its shape.
pub(super) fn pinned_exempt(pins: &Pins) -> Result<BTreeSet<Ipv4Net>, DataplaneError> {
    list_exempt(&pinned(EXEMPT, pins)?)
}

fn list_exempt(map: &LpmTrie<MapData, Ipv4, u8>) -> Result<BTreeSet<Ipv4Net>, DataplaneError> {
    let mut all = BTreeSet::new();
    for entry in map.iter() {
        let (key, _) = entry.map_err(|e| DataplaneError::map(EXEMPT, "read", e))?;
        all.extend(prefix(&key));
    }
    Ok(all)
}

/// Kernel ids of the programs in the pinned map of steps; the caller has checked its shape.
pub(super) fn pinned_steps(pins: &Pins) -> Result<BTreeMap<Program, u32>, DataplaneError> {
    let opened = MapData::from_pin(pins.map(STEPS));
    steps_in(opened.map_err(|e| DataplaneError::map(STEPS, "open", e))?)
}

/// The same of a map that is open.
pub(super) fn steps_of(map: BorrowedFd<'_>) -> Result<BTreeMap<Program, u32>, DataplaneError> {
    let failed = |e| DataplaneError::map(STEPS, "open", e);
    let map = map.try_clone_to_owned();
    let map = map.map_err(|error| failed(MapError::IoError(error)))?;
    steps_in(MapData::from_fd(map).map_err(failed)?)
}

fn steps_in(data: MapData) -> Result<BTreeMap<Program, u32>, DataplaneError> {
    let failed = |e| DataplaneError::map(STEPS, "read", e);
    // For a read from user space a program array is an array of ids (`prog_fd_array_sys_lookup_elem`);
    // aya has no such read for it.
    let ids: Array<MapData, u32> = typed(STEPS, Map::Array(data))?;
    let mut found = BTreeMap::new();
    for step in Program::STEPS {
        match ids.get(&step.step(), 0) {
            Ok(id) => {
                found.insert(step, id);
            }
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(found)
}
