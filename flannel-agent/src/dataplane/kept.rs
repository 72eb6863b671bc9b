//! What the pins hold, held a second time for as long as the agent runs: who removes pins under it, or unmounts their file system,
//! takes no program off its hook and no translated connection out of the table. They are pinned again at the next look. To open a map
//! by its number instead would take CAP_SYS_ADMIN.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use super::bpffs::Pins;
use super::chain::tcx_program;
use super::held::{self, OpenMaps};
use super::{DataplaneError, pin};

/// By the names of their pins.
#[derive(Debug, Default)]
pub(super) struct Kept {
    links: BTreeMap<String, Link>,
    /// For others in this process, too.
    maps: Arc<OpenMaps>,
}

#[derive(Debug)]
struct Link {
    fd: OwnedFd,
    /// Of one at tcx.
    program: Option<u32>,
}

impl Kept {
    /// Keeps the maps of a load from now on. One that cannot be opened cannot be pinned again, either.
    pub(super) fn keep_maps<'a>(&mut self, names: impl Iterator<Item = &'a str>, pins: &Pins) {
        let kept = |name: &str| Some((name.to_owned(), pin::open(&pins.map(name)).ok()?));
        self.maps = held::share(pins.root(), names.filter_map(kept).collect());
    }

    pub(super) fn map(&self, name: &str) -> Option<BorrowedFd<'_>> {
        Some(self.maps.get(name)?.as_fd())
    }

    /// Keeps the link that is pinned as `name`.
    pub(super) fn keep(&mut self, name: String, pins: &Pins) {
        self.let_go(&name);
        let path = pins.link(&name);
        if let Ok(fd) = pin::open(&path) {
            let program = tcx_program(&path);
            self.links.insert(name, Link { fd, program });
        }
    }

    pub(super) fn let_go(&mut self, name: &str) {
        self.links.remove(name);
    }

    /// Another agent's programs are in their place: to take one off a hook, that agent removes the pin.
    pub(super) fn let_all_go(&mut self) {
        self.links.clear();
    }

    /// The program of the link at tcx that was pinned as `name`.
    pub(super) fn program(&self, name: &str) -> Option<u32> {
        self.links.get(name)?.program
    }

    pub(super) fn are_links_pinned(&self, pins: &Pins) -> bool {
        self.links.keys().all(|name| pins.link(name).exists())
    }

    /// A link that is on no hook any more is pinned, too: the next look finds that.
    pub(super) fn pin_links(&self, pins: &Pins) -> Result<(), DataplaneError> {
        let links = self.links.iter();
        all(links.map(|(name, link)| pin_again(link.fd.as_fd(), &pins.link(name))))
    }

    /// Pins `names` again as far as they are not. `false`: one is not known here.
    pub(super) fn pin_maps<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
        pins: &Pins,
    ) -> Result<bool, DataplaneError> {
        let mut known = true;
        let pinned = names.map(|name| {
            let path = pins.map(name);
            match self.map(name) {
                Some(map) => return pin_again(map, &path),
                None => known &= path.exists(),
            }
            Ok(())
        });
        all(pinned).map(|()| known)
    }
}

/// The first error, once all were tried: what cannot be pinned takes nothing else along.
fn all(pinned: impl Iterator<Item = Result<(), DataplaneError>>) -> Result<(), DataplaneError> {
    pinned.fold(Ok(()), Result::and)
}

fn pin_again(fd: BorrowedFd<'_>, path: &Path) -> Result<(), DataplaneError> {
    if path.exists() {
        return Ok(());
    }
    pin::pin(fd, path).map_err(|error| DataplaneError::Pin {
        path: path.to_owned(),
        error,
    })
}
