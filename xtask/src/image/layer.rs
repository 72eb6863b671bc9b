//! A tree as a layer: the same tree, the same bytes.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};

use crate::builder::sha256;

pub(super) const COMPRESSED: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(super) const STORED: &str = "application/vnd.oci.image.layer.v1.tar";

#[derive(Debug)]
pub(super) struct Layer {
    /// As it is in an archive.
    pub(super) bytes: Vec<u8>,
    pub(super) media_type: &'static str,
    pub(super) digest: String,
    /// Of what is compressed.
    pub(super) diff_id: String,
    /// What the history says of it.
    pub(super) made_by: String,
}

impl Layer {
    /// Everything is root's, and of the time `mtime` (seconds since 1970).
    pub(super) fn pack(tree: &Path, mtime: u64, made_by: String) -> Result<Self> {
        of(&plain(tree, mtime)?, made_by)
    }

    /// Not compressed: for an archive that is large, and never leaves this machine.
    pub(super) fn stored(plain: Vec<u8>, made_by: String) -> Self {
        let digest = sha256(&plain);
        Self {
            media_type: STORED,
            diff_id: format!("sha256:{digest}"),
            digest,
            bytes: plain,
            made_by,
        }
    }
}

/// A tree as a tar file.
pub(super) fn plain(tree: &Path, mtime: u64) -> Result<Vec<u8>> {
    let mut found = Vec::new();
    gather(tree, Path::new(""), &mut found)?;
    // Part by part, so a folder is ahead of what is in it.
    found.sort();
    let mut archive = tar::Builder::new(Vec::new());
    for path in &found {
        append(&mut archive, tree, path, mtime)
            .with_context(|| format!("cannot pack {}", tree.join(path).display()))?;
    }
    archive.into_inner().context("cannot pack a layer")
}

/// Of a tar file.
pub(super) fn of(plain: &[u8], made_by: String) -> Result<Layer> {
    let bytes = compress(plain).context("cannot compress a layer")?;
    Ok(Layer {
        digest: sha256(&bytes),
        bytes,
        media_type: COMPRESSED,
        diff_id: format!("sha256:{}", sha256(plain)),
        made_by,
    })
}

/// Relative to `tree`.
fn gather(tree: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let full = tree.join(folder);
    let cannot = || format!("cannot read {}", full.display());
    for entry in fs::read_dir(&full).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let path = folder.join(entry.file_name());
        // Of the link, not of what it leads to.
        if entry.file_type().with_context(cannot)?.is_dir() {
            gather(tree, &path, found)?;
        }
        found.push(path);
    }
    Ok(())
}

fn append(archive: &mut tar::Builder<Vec<u8>>, tree: &Path, path: &Path, mtime: u64) -> Result<()> {
    let full = tree.join(path);
    let about = full.symlink_metadata()?;
    let mut header = Header::new_gnu();
    header.set_mode(about.permissions().mode() & 0o7777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime);
    if about.is_dir() {
        header.set_entry_type(EntryType::Directory);
        header.set_size(0);
        archive.append_data(&mut header, path, io::empty())?;
    } else if about.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, path, fs::read_link(&full)?)?;
    } else if about.is_file() {
        let contents = fs::read(&full)?;
        header.set_size(contents.len() as u64);
        archive.append_data(&mut header, path, &*contents)?;
    } else {
        bail!("it is neither file, folder nor link: leave it out of the tree");
    }
    Ok(())
}

/// Without a time, a name or a system in the header.
fn compress(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzBuilder::new()
        .mtime(0)
        .operating_system(255)
        .write(Vec::new(), Compression::default());
    encoder.write_all(plain)?;
    encoder.finish()
}
