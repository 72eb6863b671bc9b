//! A folder that becomes a layer. What is put there has the mode that is said, whatever this process's umask.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

#[derive(Debug)]
pub(super) struct Tree(TempDir);

impl Tree {
    /// In a folder of ours, so that large ones do not fill `/tmp`.
    pub(super) fn new_in(folder: &Path) -> Result<Self> {
        let tree = tempfile::tempdir_in(folder)
            .with_context(|| format!("cannot make a folder in {}", folder.display()))?;
        fs::set_permissions(tree.path(), Permissions::from_mode(0o755))
            .with_context(|| format!("cannot change the mode of {}", tree.path().display()))?;
        Ok(Self(tree))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Where this path of the image is.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.path().join(path.trim_start_matches('/'))
    }

    /// With those above it.
    pub(super) fn folder(&self, path: &str) -> Result<()> {
        let mut folder = self.path().to_owned();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            folder.push(name);
            if folder.is_dir() {
                continue;
            }
            fs::create_dir(&folder)
                .and_then(|()| fs::set_permissions(&folder, Permissions::from_mode(0o755)))
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(())
    }

    pub(super) fn file(&self, path: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.above(path)?;
        let file = self.at(path);
        fs::write(&file, contents)
            .and_then(|()| fs::set_permissions(&file, Permissions::from_mode(mode)))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    pub(super) fn copy(&self, from: &Path, path: &str, mode: u32) -> Result<()> {
        self.above(path)?;
        let file = self.at(path);
        fs::copy(from, &file)
            .and_then(|_| fs::set_permissions(&file, Permissions::from_mode(mode)))
            .with_context(|| format!("cannot copy {} to {}", from.display(), file.display()))
    }

    /// In the place of one that is there.
    pub(super) fn link(&self, path: &str, target: &str) -> Result<()> {
        self.above(path)?;
        let link = self.at(path);
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => symlink(target, &link),
        }
        .with_context(|| format!("cannot link {} to {target}", link.display()))
    }

    fn above(&self, path: &str) -> Result<()> {
        path.rsplit_once('/')
            .map_or(Ok(()), |(above, _)| self.folder(above))
    }
}
