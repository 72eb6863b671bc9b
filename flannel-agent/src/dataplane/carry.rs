//! Translated connections from the maps of an earlier layout, or from a table of another size that was set aside, into ours.

use std::path::Path;

use aya::maps::{HashMap, Map, MapData, MapError};
use bytemuck::Pod;
use flannel_common::maps::{SNAT, carries_snat};
use flannel_common::snat::{Entry, Former, Key, Side};

use super::batch::Batches;
use super::bpffs::{self, Pins};
use super::{DataplaneError, Wire};

/// `BPF_NOEXIST`: what is there already stays.
pub(super) const NO_EXIST: u64 = 1;

/// Whether the table in the folder of a layout, say `v3`, or of what was set aside is to be carried over: it is there, and means here
/// what it means there.
///
/// # Errors
/// If that cannot be found out: the folder goes with what is not carried.
pub(super) fn is_carried(pins: &Pins, folder: &str) -> Result<bool, DataplaneError> {
    let version = folder.strip_prefix('v').and_then(|v| v.parse().ok());
    let means_the_same = bpffs::is_aside(folder) || version.is_some_and(carries_snat);
    if !means_the_same {
        return Ok(false);
    }
    let path = pins.map_of(folder, SNAT);
    let is_there = path.try_exists();
    is_there.map_err(|error| DataplaneError::Pin { path, error })
}

/// Copies what is not here yet; returns how many entries that were.
pub(super) fn carry(pins: &Pins, folder: &str) -> Result<usize, DataplaneError> {
    copy(&open(&pins.map_of(folder, SNAT))?, pins)
}

/// Copies what our table does not hold yet; returns how many entries that were.
fn copy(old: &MapData, pins: &Pins) -> Result<usize, DataplaneError> {
    let info = old.info().map_err(failed("look at"))?;
    if info.value_size() as usize == size_of::<Former>() {
        return copy_as::<Former>(old, pins);
    }
    copy_as::<Entry>(old, pins)
}

fn copy_as<Old: Pod + Into<Entry>>(old: &MapData, pins: &Pins) -> Result<usize, DataplaneError> {
    let new = Map::from_map_data(open(&pins.map(SNAT))?).map_err(failed("open"))?;
    let mut new: HashMap<MapData, Wire<Key>, Wire<Entry>> =
        HashMap::try_from(new).map_err(failed("open"))?;
    let unreadable = |error| failed("read")(MapError::IoError(error));
    let mut carried = 0;
    for batch in Batches::<Key, Old>::of(old).map_err(unreadable)? {
        for (key, entry) in batch.map_err(unreadable)? {
            // What is said while the programs change is missed: of their sides nothing is known any more.
            let entry = Entry {
                sides: [Side::NONE; 2],
                ..entry.into()
            };
            match new.insert(Wire(key), Wire(entry), NO_EXIST) {
                Ok(()) => carried += 1,
                Err(MapError::SyscallError(e))
                    if e.io_error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(error) => return Err(failed("write")(error)),
            }
        }
    }
    Ok(carried)
}

fn open(pin: &Path) -> Result<MapData, DataplaneError> {
    MapData::from_pin(pin).map_err(failed("open"))
}

fn failed(what: &'static str) -> impl Fn(MapError) -> DataplaneError {
    move |error| DataplaneError::map(SNAT, what, error)
}
