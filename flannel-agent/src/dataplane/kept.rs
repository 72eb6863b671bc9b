//! What the pins hold, held a second time for as long as the agent runs: who removes pins under it, or unmounts their file system,
//! takes no program off its hook and no translated connection out of the table. They are pinned again at the next look.

use std::collections::BTreeMap;
use std::fmt;

use aya::maps::{MapData, MapInfo};
use aya::programs::links::{FdLink, PinnedLink};

use super::bpffs::Pins;

/// Open links by the names of their pins, and the kernel's numbers of the maps, which the loaded object holds open.
#[derive(Default)]
pub(super) struct Kept {
    links: BTreeMap<String, FdLink>,
    maps: BTreeMap<String, u32>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links: Vec<_> = self.links.keys().collect();
        f.debug_struct("Kept")
            .field("links", &links)
            .field("maps", &self.maps)
            .finish()
    }
}

impl Kept {
    /// Knows the maps of a load from now on. One that cannot be looked at cannot be pinned again, either.
    pub(super) fn know_maps<'a>(&mut self, names: impl Iterator<Item = &'a str>, pins: &Pins) {
        let id = |name: &str| {
            Some((
                name.to_owned(),
                MapInfo::from_pin(pins.map(name)).ok()?.id(),
            ))
        };
        self.maps = names.filter_map(id).collect();
    }

    /// Keeps the link that is pinned as `name`.
    pub(super) fn keep(&mut self, name: String, pins: &Pins) {
        self.let_go(&name);
        if let Ok(link) = PinnedLink::from_pin(pins.link(&name)) {
            self.links.insert(name, FdLink::from(link));
        }
    }

    pub(super) fn let_go(&mut self, name: &str) {
        self.links.remove(name);
    }

    /// Another agent's programs are in their place: to take one off a hook, that agent removes the pin.
    pub(super) fn let_all_go(&mut self) {
        self.links.clear();
    }

    pub(super) fn are_links_pinned(&self, pins: &Pins) -> bool {
        self.links.keys().all(|name| pins.link(name).exists())
    }

    /// A link that is on no hook any more is pinned, too: the next look finds that.
    pub(super) fn pin_links(&mut self, pins: &Pins) {
        let links = std::mem::take(&mut self.links).into_iter();
        let pinned = links.filter_map(|(name, link)| {
            let path = pins.link(&name);
            let link = match path.exists() {
                true => link,
                false => link.pin(path).ok()?.into(),
            };
            Some((name, link))
        });
        self.links = pinned.collect();
    }

    /// Pins `names` again as far as they are not. `false`: one could not be.
    pub(super) fn pin_maps<'a>(&self, names: impl Iterator<Item = &'a str>, pins: &Pins) -> bool {
        let pin = |name: &str| {
            let path = pins.map(name);
            path.exists()
                || self
                    .maps
                    .get(name)
                    .is_some_and(|id| MapData::from_id(*id).is_ok_and(|map| map.pin(path).is_ok()))
        };
        // All of them: what cannot be pinned takes nothing else along.
        let pinned: Vec<bool> = names.map(pin).collect();
        pinned.into_iter().all(|pinned| pinned)
    }
}
