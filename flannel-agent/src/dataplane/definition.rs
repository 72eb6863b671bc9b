//! The maps as the object defines them, compared with what is pinned.

use std::fmt;
use std::path::Path;

use aya::maps::MapInfo;
use flannel_common::maps::SNAT;

use super::DataplaneError;
use super::bpffs;

/// Size of a table that no attached program uses.
pub(super) const UNUSED_ENTRIES: u32 = 1_024;

/// A map as the object defines it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Definition {
    pub(super) name: String,
    pub(super) shape: Shape,
}

/// What has to be equal for a pinned map to be usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) kind: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
}

impl Definition {
    pub(super) fn pinned(&self, path: &Path) -> Option<Shape> {
        MapInfo::from_pin(path).ok().map(|info| Shape {
            kind: info.map_type().map_or(u32::MAX, |kind| kind as u32),
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }

    /// Whether nothing but the number of entries differs.
    pub(super) fn is_resized(&self, found: &Shape) -> bool {
        let ours = self.shape;
        let same = Shape {
            max_entries: ours.max_entries,
            ..*found
        };
        same == ours && found.max_entries != ours.max_entries
    }

    /// Whether the table of translated connections is pinned in another size, and both sizes are of use.
    pub(super) fn is_resized_snat(&self, path: &Path) -> bool {
        self.name == SNAT
            && self.pinned(path).is_some_and(|found| {
                let sizes = [found.max_entries, self.shape.max_entries];
                self.is_resized(&found) && !sizes.contains(&UNUSED_ENTRIES)
            })
    }

    /// aya opens a pinned map without a look at its shape and would misread every entry. Everything in
    /// our maps follows from the leases, so a map of another shape is made anew; the attached programs
    /// keep the old one until they are swapped.
    pub(super) fn discard_if_other(&self, path: &Path) -> Result<(), DataplaneError> {
        let found = match self.pinned(path) {
            Some(found) if found != self.shape => format!("{found:?}"),
            // Something else than a map is pinned there.
            None if path.exists() => "no map".to_owned(),
            _ => return Ok(()),
        };
        tracing::warn!(
            "{} is {found} and not {:?}: making it anew",
            path.display(),
            self.shape
        );
        bpffs::unpin(path)
    }
}

/// A pinned map that a load makes anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReplacedMap {
    pub(crate) name: String,
    /// Entries before and after, if nothing else differs.
    pub(crate) resized: Option<(u32, u32)>,
    /// What it holds goes along.
    pub(crate) carried: bool,
}

impl fmt::Display for ReplacedMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.resized {
            Some((from, to)) => write!(f, "resize {} from {from} to {to} entries", self.name)?,
            None => write!(f, "replace {}, which has another shape", self.name)?,
        }
        f.write_str(match self.carried {
            true => ", carrying its connections over",
            false => "",
        })
    }
}
