//! clsact qdiscs that an agent made: remembered, because the kernel keeps no mark on them.
//!
//! A clsact qdisc has neither name nor owner, and whoever wants filters adds it if it is missing. So each that
//! we added is written down: an empty file, named after namespace and device, with the boot it belongs to.
//! `cleanup` removes the qdisc if it is on that list and holds nobody's filter. All networks of a node share
//! the list: the last of them takes the qdisc along.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::net::if_::if_indextoname;

use crate::node::net::{NetError, namespace, sysctl};

/// The list of one network namespace.
#[derive(Debug, Clone)]
pub(crate) struct MadeQdiscs {
    folder: PathBuf,
}

impl MadeQdiscs {
    /// `state_dir` is the same for all agents of a node.
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            folder: state_dir.to_owned(),
        }
    }

    /// Writes down that we made the qdisc of the device with this index.
    pub(super) fn remember(&self, index: u32) -> Result<(), NetError> {
        self.forget_the_gone()?;
        let (path, boot) = (self.path(index)?, sysctl::boot_id()?);
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.folder)
            .and_then(|()| fs::write(&path, boot))
            .map_err(|error| NetError::io(format!("write {}", path.display()), &error))
    }

    /// Whether we made it, in this boot.
    pub(crate) fn has(&self, index: u32) -> Result<bool, NetError> {
        let (path, boot) = (self.path(index)?, sysctl::boot_id()?);
        Ok(fs::read_to_string(path).is_ok_and(|text| text == boot))
    }

    pub(crate) fn forget(&self, index: u32) -> Result<(), NetError> {
        let path = self.path(index)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(NetError::io(format!("remove {}", path.display()), &error))
            }
            _ => Ok(()),
        }
    }

    /// A qdisc goes with its device, and pods come and go.
    fn forget_the_gone(&self) -> Result<(), NetError> {
        let prefix = prefix()?;
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Ok(());
        };
        for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            let index = name
                .strip_prefix(&prefix)
                .and_then(|rest| rest.parse().ok());
            if let Some(index) = index
                && is_gone(index)
            {
                self.forget(index)?;
            }
        }
        Ok(())
    }

    fn path(&self, index: u32) -> Result<PathBuf, NetError> {
        Ok(self.folder.join(format!("{}{index}", prefix()?)))
    }
}

fn is_gone(index: u32) -> bool {
    // nix takes the null pointer of a failure for an answer (it compares with -1), and returns no name.
    if_indextoname(index).map_or(true, |name| name.is_empty())
}

/// Indexes count anew in each namespace.
fn prefix() -> Result<String, NetError> {
    Ok(format!("clsact-{}-", namespace()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loopback device of every namespace.
    const LO: u32 = 1;
    const GONE: u32 = 4_000_000;

    #[test]
    fn what_was_made_is_known_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let made = MadeQdiscs::new(&folder.path().join("new"));
        assert!(!made.has(LO).unwrap());
        made.forget(LO).unwrap();
        made.remember(LO).unwrap();
        assert!(made.has(LO).unwrap());
        assert!(!made.has(2).unwrap());
        made.forget(LO).unwrap();
        assert!(!made.has(LO).unwrap());
    }

    #[test]
    fn a_device_that_is_gone_leaves_the_list_with_the_next_entry() {
        let folder = tempfile::tempdir().unwrap();
        let made = MadeQdiscs::new(folder.path());
        made.remember(GONE).unwrap();
        made.remember(LO).unwrap();
        assert!(!made.has(GONE).unwrap());
        assert!(made.has(LO).unwrap());
    }

    #[test]
    fn another_boot_s_list_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let made = MadeQdiscs::new(folder.path());
        fs::write(made.path(LO).unwrap(), "another boot").unwrap();
        assert!(!made.has(LO).unwrap());
    }
}
