//! The maps that agents of this process have open, for others in it: while the pins are away (the file system is unmounted, say, and may
//! not be mounted), nobody comes to a map by its path.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aya::maps::{MapData, MapError};

use super::bpffs::Pins;

/// By the names of their pins.
pub(super) type OpenMaps = BTreeMap<String, OwnedFd>;

/// By the network's folder.
static HELD: Mutex<BTreeMap<PathBuf, Weak<OpenMaps>>> = Mutex::new(BTreeMap::new());

/// Others have them for as long as what is returned is kept.
pub(super) fn share(root: &Path, maps: OpenMaps) -> Arc<OpenMaps> {
    let maps = Arc::new(maps);
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    held.retain(|_, maps| maps.strong_count() > 0);
    held.insert(root.to_owned(), Arc::downgrade(&maps));
    maps
}

fn of(root: &Path) -> Option<Arc<OpenMaps>> {
    let held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    held.get(root)?.upgrade()
}

/// Whether an agent of this process has maps of the network.
pub(super) fn has(root: &Path) -> bool {
    of(root).is_some()
}

/// Whether there is such a map, pinned or open here.
pub(super) fn exists(name: &str, pins: &Pins) -> bool {
    pins.map(name).exists() || of(pins.root()).is_some_and(|maps| maps.contains_key(name))
}

/// Opens what is pinned, and what was pinned if it is open here. The pin goes first: another agent's maps may be there by now.
pub(super) fn open(name: &str, pins: &Pins) -> Result<MapData, MapError> {
    let pinned = MapData::from_pin(pins.map(name));
    if pinned.is_ok() || pins.map(name).exists() {
        return pinned;
    }
    let maps = of(pins.root());
    match maps.as_ref().and_then(|maps| maps.get(name)) {
        Some(map) => MapData::from_fd(map.try_clone().map_err(MapError::IoError)?),
        None => pinned,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn maps_are_known_by_their_network_for_as_long_as_they_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let [pins, other] = ["a", "b"].map(|network| Pins::of(folder.path(), network));
        let some = || OpenMaps::from([("map".to_owned(), File::open("/dev/null").unwrap().into())]);
        let before = share(pins.root(), OpenMaps::new());
        assert!(has(pins.root()) && !exists("map", &pins));
        let now = share(pins.root(), some());
        drop(before);
        assert!(exists("map", &pins) && !exists("none", &pins));
        assert!(!has(other.root()) && !exists("map", &other));
        drop(now);
        assert!(!has(pins.root()) && !exists("map", &pins));
    }
}
