//! The map of devices at which no flow is proven, and the number that ends all proofs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use aya::maps::{Array, HashMap, MapData};
use flannel_common::maps::{EPOCH, UNFIT};

use super::DataplaneError;
use super::bpffs::Pins;
use super::maps::{gone, pinned, raise};

/// The pinned maps of a network of this node.
pub(crate) struct Unfit {
    devices: HashMap<MapData, u32, u32>,
    epoch: Array<MapData, u32>,
}

impl fmt::Debug for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unfit").finish_non_exhaustive()
    }
}

impl Unfit {
    /// # Errors
    /// No such network, or one of another version.
    pub(crate) fn open(bpffs: &Path, network: &str) -> Result<Self, DataplaneError> {
        let pins = Pins::of(bpffs, network);
        Ok(Self {
            devices: pinned(UNFIT, &pins)?,
            epoch: pinned(EPOCH, &pins)?,
        })
    }

    /// By ifindex, a value of [`flannel_common::unfit`].
    pub(crate) fn list(&self) -> Result<BTreeMap<u32, u32>, DataplaneError> {
        let entries: Result<_, _> = self.devices.iter().collect();
        entries.map_err(|e| DataplaneError::map(UNFIT, "read", e))
    }

    /// Makes the map hold just these.
    pub(crate) fn set(&mut self, wanted: &BTreeMap<u32, u32>) -> Result<(), DataplaneError> {
        let held = self.list()?;
        for (index, why) in wanted {
            if held.get(index) != Some(why) {
                self.devices
                    .insert(index, why, 0)
                    .map_err(|e| DataplaneError::map(UNFIT, "write", e))?;
            }
        }
        for index in held.keys().filter(|index| !wanted.contains_key(index)) {
            gone(self.devices.remove(index))
                .map_err(|e| DataplaneError::map(UNFIT, "remove", e))?;
        }
        Ok(())
    }

    /// After [`Self::set`]: no proof from before counts any more.
    pub(crate) fn end_proofs(&mut self) -> Result<(), DataplaneError> {
        raise(&mut self.epoch)
    }
}
