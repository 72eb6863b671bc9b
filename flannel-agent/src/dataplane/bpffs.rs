//! The BPF file system and our folder in it.
//!
//! ```text
//! <bpffs>/flannel/<network>/v<LAYOUT_VERSION>/maps/<map>
//! <bpffs>/flannel/<network>/links/<program>-<ifindex>
//! <bpffs>/flannel/<network>/from-<network>
//! <bpffs>/flannel/<network>/was<number>/maps/<map>
//! ```
//! Links are outside the layout folder: a link lives on when its program, and the maps of that, change.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use flannel_common::maps::LAYOUT_VERSION;
use flannel_common::program::Program;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::DataplaneError;

/// Of all networks.
pub(super) const FOLDER: &str = "flannel";
const LINKS: &str = "links";
const MAPS: &str = "maps";
/// Of the folders of what was set aside.
const ASIDE: &str = "was";

/// Our folder.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Makes sure that a BPF file system is mounted at `bpffs`, and creates the folders of `network`.
    pub(super) fn open(bpffs: &Path, network: &str) -> Result<Self, DataplaneError> {
        ensure_mounted(bpffs)?;
        let pins = Self::of(bpffs, network);
        make_folder(&pins.maps())?;
        make_folder(&pins.links())?;
        Ok(pins)
    }

    /// The folder of a network, be it there or not.
    pub(super) fn of(bpffs: &Path, network: &str) -> Self {
        Self {
            root: bpffs.join(FOLDER).join(network),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.root.join(current_layout()).join(MAPS)
    }

    pub(super) fn links(&self) -> PathBuf {
        self.root.join(LINKS)
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// A map of another layout.
    pub(super) fn map_of(&self, layout: &str, name: &str) -> PathBuf {
        self.root.join(layout).join(MAPS).join(name)
    }

    pub(super) fn link(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    /// File names of all pinned links.
    pub(super) fn link_names(&self) -> Result<BTreeSet<String>, DataplaneError> {
        entries(&self.links())
    }

    /// All pinned links, of whatever network.
    pub(super) fn links_of_all(&self) -> Vec<PathBuf> {
        let folders = self.folders_of_all().filter_map(|f| fs::read_dir(f).ok());
        let links = folders.flatten();
        links.filter_map(|link| Some(link.ok()?.path())).collect()
    }

    /// Those of one device.
    pub(super) fn links_of_all_at(&self, index: u32) -> Vec<PathBuf> {
        let links = self.folders_of_all().flat_map(|folder| {
            let name = |program: Program| folder.join(link_name(program, index));
            Program::ALL.map(name)
        });
        links.filter(|link| link.exists()).collect()
    }

    fn folders_of_all(&self) -> impl Iterator<Item = PathBuf> {
        let networks = self.root.parent().map(fs::read_dir);
        let networks = networks.and_then(Result::ok).into_iter().flatten();
        networks.filter_map(|network| Some(network.ok()?.path().join(LINKS)))
    }

    /// Removes every pin of the network, and with the pinned links what is attached.
    pub(super) fn remove_all(&self) -> Result<(), DataplaneError> {
        remove_folder(&self.root)
    }

    /// Becomes what another network's folder is, and remembers it until [`Self::settle`]. `false`: something is pinned here already,
    /// or there is no such folder.
    pub(super) fn take_from(&self, other: &Self) -> Result<bool, DataplaneError> {
        if self.has_taken(other) {
            return Ok(true);
        }
        if !other.root.exists() {
            return Ok(false);
        }
        let is_bare = entries(&self.links())?.is_empty()
            && entries(&self.maps())?.is_empty()
            && self.old_layouts()?.is_empty();
        if !is_bare {
            return Ok(false);
        }
        self.remove_all()?;
        let taken = other.taken(other);
        // Recursive: one that is there already is fine.
        let made = fs::DirBuilder::new().recursive(true).create(&taken);
        made.map_err(|error| DataplaneError::Pin { path: taken, error })?;
        renamed(&other.root, &self.root)?;
        Ok(true)
    }

    /// Whether the folder was that of `other`, whose devices may still be its.
    pub(super) fn has_taken(&self, other: &Self) -> bool {
        self.taken(other).exists()
    }

    /// All that was `other`'s is this network's.
    pub(super) fn settle(&self, other: &Self) -> Result<(), DataplaneError> {
        let taken = self.taken(other);
        removed(&taken, fs::remove_dir(&taken))
    }

    /// An empty folder that says it. bpffs has no files of one's own, and no names with dots.
    fn taken(&self, other: &Self) -> PathBuf {
        let name = other.root.file_name().unwrap_or_default();
        self.root.join(format!("from-{}", name.to_string_lossy()))
    }

    pub(super) fn has_maps(&self) -> Result<bool, DataplaneError> {
        Ok(!entries(&self.maps())?.is_empty())
    }

    /// Removes the maps. What has them open keeps them.
    pub(super) fn remove_maps(&self) -> Result<(), DataplaneError> {
        let maps = entries(&self.maps())?;
        maps.iter().try_for_each(|name| unpin(&self.map(name)))
    }

    /// Folders of other layout versions, and of maps that made room for others.
    pub(super) fn old_layouts(&self) -> Result<BTreeSet<String>, DataplaneError> {
        let mut folders = entries(&self.root)?;
        folders.retain(|name| is_aside(name) || is_layout(name) && *name != current_layout());
        Ok(folders)
    }

    /// Folders of maps that made room for others.
    pub(super) fn set_asides(&self) -> Result<BTreeSet<String>, DataplaneError> {
        let mut folders = entries(&self.root)?;
        folders.retain(|name| is_aside(name));
        Ok(folders)
    }

    /// Moves a map to a folder of its own, from where nobody takes it away until it is no use any more.
    pub(super) fn set_aside(&self, name: &str) -> Result<(), DataplaneError> {
        let held = self.set_asides()?;
        let last = held.iter().filter_map(|folder| number_aside(folder)).max();
        let folder = format!("{ASIDE}{}", last.unwrap_or(0) + 1);
        let to = self.map_of(&folder, name);
        make_folder(&self.root.join(folder).join(MAPS))?;
        renamed(&self.map(name), &to)
    }

    /// Undoes [`Self::set_aside`].
    pub(super) fn take_back(&self, folder: &str, name: &str) -> Result<(), DataplaneError> {
        renamed(&self.map_of(folder, name), &self.map(name))
    }

    pub(super) fn remove_layout(&self, name: &str) -> Result<(), DataplaneError> {
        remove_folder(&self.root.join(name))
    }
}

/// Whether a folder is one of what was set aside.
pub(super) fn is_aside(folder: &str) -> bool {
    number_aside(folder).is_some()
}

fn number_aside(folder: &str) -> Option<u32> {
    folder.strip_prefix(ASIDE)?.parse().ok()
}

/// The index is in the name: a link of a device that was deleted is never mistaken for one of its
/// successor, and two uplinks are two files.
pub(super) fn link_name(program: Program, index: u32) -> String {
    format!("{}-{index}", program.name())
}

fn is_layout(name: &str) -> bool {
    name.strip_prefix('v')
        .is_some_and(|version| version.parse::<u32>().is_ok())
}

fn current_layout() -> String {
    format!("v{LAYOUT_VERSION}")
}

fn entries(folder: &Path) -> Result<BTreeSet<String>, DataplaneError> {
    let pin = |error| DataplaneError::Pin {
        path: folder.to_owned(),
        error,
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(pin(error)),
    };
    entries
        .map(|entry| {
            Ok(entry
                .map_err(pin)?
                .file_name()
                .to_string_lossy()
                .into_owned())
        })
        .collect()
}

/// A BPF file system that others mounted may be open to everybody, and folders can be locked by all who can open them.
fn make_folder(folder: &Path) -> Result<(), DataplaneError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder);
    made.map_err(|error| DataplaneError::Pin {
        path: folder.to_owned(),
        error,
    })
}

fn renamed(from: &Path, to: &Path) -> Result<(), DataplaneError> {
    fs::rename(from, to).map_err(|error| DataplaneError::Pin {
        path: from.to_owned(),
        error,
    })
}

/// Removes a pin; one that is gone is fine.
pub(super) fn unpin(path: &Path) -> Result<(), DataplaneError> {
    removed(path, fs::remove_file(path))
}

fn remove_folder(path: &Path) -> Result<(), DataplaneError> {
    removed(path, fs::remove_dir_all(path))
}

/// What was gone already is removed, too.
fn removed(path: &Path, result: io::Result<()>) -> Result<(), DataplaneError> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DataplaneError::Pin {
            path: path.to_owned(),
            error,
        }),
        _ => Ok(()),
    }
}

fn ensure_mounted(path: &Path) -> Result<(), DataplaneError> {
    let failed = |error: io::Error| DataplaneError::Bpffs {
        path: path.to_owned(),
        error,
    };
    if is_mounted(path) {
        return Ok(());
    }
    // A mount hides what is below it: over anything but an empty folder (which the kernel provides at
    // /sys/fs/bpf) a mistyped path would take away a file system that the node needs.
    let in_use = fs::read_dir(path).map_err(failed)?.next().is_some();
    if in_use {
        return Err(failed(io::Error::from(io::ErrorKind::DirectoryNotEmpty)));
    }
    mount(
        Some("bpf"),
        path,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=700"),
    )
    .map_err(|errno| failed(errno.into()))?;
    tracing::warn!(
        "mounted a BPF file system on {}: in a container it ends with the container, and forwarding \
         with it; mount the host's /sys/fs/bpf there instead",
        path.display()
    );
    Ok(())
}

/// Whether a BPF file system is mounted at `path`.
pub(crate) fn is_mounted(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_mounts_over_a_folder_that_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), b"needed").unwrap();
        let error = ensure_mounted(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("not empty") && error.contains("--bpffs"),
            "{error}"
        );
        assert!(folder.path().join("file").exists());
    }

    #[test]
    fn pins_of_another_network_are_taken_over_where_there_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let [ours, other] = ["ours", "other"].map(|name| Pins::of(folder.path(), name));
        let make = |pins: &Pins| {
            for folder in [pins.maps(), pins.links()] {
                fs::create_dir_all(folder).unwrap();
            }
        };
        assert!(!ours.take_from(&other).unwrap(), "nothing is nothing");
        make(&ours);
        make(&other);
        fs::write(other.link("uplink_rx-2"), b"").unwrap();
        fs::write(other.map("fl_peers"), b"").unwrap();
        assert!(ours.take_from(&other).unwrap());
        assert!(ours.link("uplink_rx-2").exists() && ours.map("fl_peers").exists());
        assert!(!other.root().exists());
        assert!(ours.take_from(&other).unwrap(), "half done is gone on with");
        assert!(!other.has_taken(&ours));
        ours.settle(&other).unwrap();
        assert!(!ours.take_from(&other).unwrap(), "done");

        make(&other);
        fs::write(other.link("uplink_rx-3"), b"").unwrap();
        assert!(!ours.take_from(&other).unwrap(), "both have pins");
        assert!(other.link("uplink_rx-3").exists() && ours.link("uplink_rx-2").exists());
    }

    #[test]
    fn what_is_set_aside_comes_back_or_goes_like_an_old_layout() {
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins::of(folder.path(), "ours");
        fs::create_dir_all(pins.maps()).unwrap();
        for text in ["one", "two"] {
            fs::write(pins.map("fl_snat"), text).unwrap();
            pins.set_aside("fl_snat").unwrap();
        }
        assert!(!pins.map("fl_snat").exists());
        let both = BTreeSet::from(["was1".to_owned(), "was2".to_owned()]);
        assert_eq!(pins.old_layouts().unwrap(), both);
        pins.take_back("was1", "fl_snat").unwrap();
        assert_eq!(fs::read(pins.map("fl_snat")).unwrap(), b"one");
        pins.remove_layout("was1").unwrap();
        pins.set_aside("fl_snat").unwrap();
        assert_eq!(
            fs::read(pins.map_of("was3", "fl_snat")).unwrap(),
            b"one",
            "none takes the place of another"
        );
    }

    #[test]
    fn links_of_a_device_are_had_without_those_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let [ours, other] = ["ours", "other"].map(|name| Pins::of(folder.path(), name));
        for (pins, names) in [
            (&ours, ["uplink_rx-2", "pod_tx-21"]),
            (&other, ["uplink_tx-2", "pod_tx-12"]),
        ] {
            fs::create_dir_all(pins.links()).unwrap();
            for name in names {
                fs::write(pins.link(name), b"").unwrap();
            }
        }
        let here = BTreeSet::from_iter(ours.links_of_all_at(2));
        let expected = [ours.link("uplink_rx-2"), other.link("uplink_tx-2")];
        assert_eq!(here, BTreeSet::from(expected));
        assert_eq!(ours.links_of_all().len(), 4);
    }

    #[test]
    fn never_makes_up_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let typo = folder.path().join("typo");
        assert!(ensure_mounted(&typo).is_err());
        assert!(!typo.exists());
    }
}
