//! The listener's own program, in which the others go on while somebody listens.
//!
//! It is loaded by the listener and not by the agent: a node to which nobody listens does without, and what it costs to read
//! and to filter packets is no part of the programs that forward.

use std::fmt;
use std::path::PathBuf;

use aya::maps::{MapData, ProgramArray};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use flannel_common::event;
use flannel_common::maps::{
    CAPTURE, EVENTS, FILTER, FLOWS, FRAGMENTS, LISTEN, LOST, SNAT, TELLER, YOUNG,
};

use super::embedded::EMBEDDED;
use super::loader::loader;
use super::verifier::patiently;
use super::view::View;
use super::{DataplaneError, requirements};

/// What it reads and writes is the network's.
const SHARED: [&str; 6] = [LISTEN, FILTER, EVENTS, LOST, CAPTURE, TELLER];
/// What it has no use for, and would take memory.
const LARGE: [&str; 4] = [FLOWS, SNAT, FRAGMENTS, YOUNG];
const FEW: u32 = 128;

/// In place until it is dropped. If it never is, [`event::Listen::until`] ends the jumps to it.
pub(super) struct Teller {
    slot: ProgramArray<MapData>,
    _ebpf: Ebpf,
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").finish_non_exhaustive()
    }
}

impl Teller {
    /// Whether the attached programs know of such a program.
    pub(super) fn is_known(view: &View) -> bool {
        SHARED.iter().all(|name| view.map_path(name).exists())
    }

    pub(super) fn start(view: &View) -> Result<Self, DataplaneError> {
        let paths: Vec<(&str, PathBuf)> = SHARED
            .iter()
            .map(|name| (*name, view.map_path(name)))
            .collect();
        let mut loader: EbpfLoader<'_> = loader();
        for (name, path) in &paths {
            loader.map_pin_path(name, path.as_path());
        }
        for name in LARGE {
            loader.map_max_entries(name, FEW);
        }
        let mut ebpf = loader
            .load(EMBEDDED)
            .map_err(|error| DataplaneError::Maps(Box::new(error)))?;
        let map = ebpf
            .take_map(TELLER)
            .ok_or_else(|| DataplaneError::no_map(TELLER))?;
        let failed = |error| DataplaneError::map(TELLER, "write", error);
        let mut slot = ProgramArray::try_from(map).map_err(failed)?;
        let program: &mut SchedClassifier = ebpf
            .program_mut(event::TELLER)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| {
                DataplaneError::Object(format!("it has no program {}", event::TELLER))
            })?;
        patiently(|| program.load())
            .map_err(|error| requirements::explain(event::TELLER, error))?;
        let fd = program
            .fd()
            .map_err(|error| DataplaneError::load(event::TELLER, error))?;
        slot.set(0, fd, 0).map_err(failed)?;
        Ok(Self { slot, _ebpf: ebpf })
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        // If it fails, nobody jumps there in seconds.
        let _ = self.slot.clear_index(&0);
    }
}
