//! The maps as the object defines them, compared with what is pinned.

use std::fmt;
use std::io;
use std::path::Path;

use aya::maps::{MapError, MapInfo};
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
    /// What is pinned there; `None`: nothing.
    ///
    /// # Errors
    /// It cannot be opened just now (no descriptor is left, say), which says nothing about what it is.
    pub(super) fn pinned(&self, path: &Path) -> Result<Option<Shape>, DataplaneError> {
        let info = match MapInfo::from_pin(path) {
            Ok(info) => info,
            Err(error) => {
                let error = into_io(error);
                if error.kind() == io::ErrorKind::NotFound {
                    return Ok(None);
                }
                let path = path.to_owned();
                return Err(DataplaneError::OpenPin { path, error });
            }
        };
        Ok(Some(Shape {
            kind: info.map_type().map_or(u32::MAX, |kind| kind as u32),
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            flags: info.map_flags(),
        }))
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
    pub(super) fn is_resized_snat(&self, found: &Shape) -> bool {
        let sizes = [found.max_entries, self.shape.max_entries];
        self.name == SNAT && self.is_resized(found) && !sizes.contains(&UNUSED_ENTRIES)
    }

    /// aya opens a pinned map without a look at its shape and would misread every entry. Everything in
    /// our maps follows from the leases, so a map of another shape is made anew; the attached programs
    /// keep the old one until they are swapped.
    pub(super) fn discard_if_other(&self, path: &Path) -> Result<(), DataplaneError> {
        // A program or a link has a shape of its own as well, and none of ours.
        let Some(found) = self.pinned(path)?.filter(|found| *found != self.shape) else {
            return Ok(());
        };
        tracing::warn!(
            "{} is {found:?} and not {:?}: making it anew",
            path.display(),
            self.shape
        );
        bpffs::unpin(path)
    }
}

fn into_io(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Definition {
        Definition {
            name: SNAT.to_owned(),
            shape: Shape {
                kind: 9,
                key_size: 16,
                value_size: 64,
                max_entries: 65_536,
                flags: 0,
            },
        }
    }

    /// What the kernel does not open (here: a file that is in no BPF file system) may be the very map.
    #[test]
    fn what_cannot_be_opened_is_not_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let pin = folder.path().join(SNAT);
        definition().discard_if_other(&pin).unwrap();
        std::fs::write(&pin, b"").unwrap();
        let error = definition().discard_if_other(&pin).unwrap_err().to_string();
        assert!(error.contains(&pin.display().to_string()), "{error}");
        assert!(pin.exists());
    }

    #[test]
    fn only_sizes_that_are_of_use_are_carried() {
        let map = definition();
        let sized = |max_entries| Shape {
            max_entries,
            ..map.shape
        };
        assert!(map.is_resized_snat(&sized(8_192)));
        assert!(!map.is_resized_snat(&map.shape));
        assert!(!map.is_resized_snat(&sized(UNUSED_ENTRIES)));
        assert!(!map.is_resized_snat(&Shape {
            key_size: 8,
            ..sized(8_192)
        }));
    }
}
