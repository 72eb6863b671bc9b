//! Where a bundle goes: an archive that is there when it is whole, or a folder.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::NamedTempFile;

use crate::base::wall::Moment;

/// For its owner alone: others need not know a node's firewall.
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

pub(super) enum Outlet {
    Archive {
        archive: tar::Builder<GzEncoder<NamedTempFile>>,
        path: PathBuf,
        /// Of everything in it.
        folder: PathBuf,
    },
    Folder(PathBuf),
}

impl Outlet {
    /// A name that ends in `.tar.gz` or `.tgz` is an archive's. A folder must be new.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let stem = name
            .strip_suffix(".tar.gz")
            .or_else(|| name.strip_suffix(".tgz"));
        let Some(stem) = stem else {
            DirBuilder::new().mode(FOLDER_MODE).create(path)?;
            return Ok(Self::Folder(path.to_owned()));
        };
        // Beside it, so that it appears as a whole by being renamed, and goes if this process fails.
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let file = tempfile::Builder::new()
            .prefix(".flannel-bundle.")
            .tempfile_in(parent)?;
        let encoder = GzEncoder::new(file, Compression::default());
        Ok(Self::Archive {
            archive: tar::Builder::new(encoder),
            path: path.to_owned(),
            folder: stem.into(),
        })
    }

    pub(super) fn add(&mut self, name: &str, contents: &[u8]) -> io::Result<()> {
        match self {
            Self::Archive {
                archive, folder, ..
            } => {
                let mut header = tar::Header::new_gnu();
                header.set_size(contents.len() as u64);
                header.set_mode(FILE_MODE);
                header.set_mtime(Moment::now().unix().as_secs());
                archive.append_data(&mut header, folder.join(name), contents)
            }
            Self::Folder(folder) => {
                let file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(FILE_MODE)
                    .open(folder.join(name));
                file?.write_all(contents)
            }
        }
    }

    pub(super) fn close(self) -> io::Result<()> {
        match self {
            Self::Archive { archive, path, .. } => {
                let file = archive.into_inner()?.finish()?;
                file.persist(path)?;
                Ok(())
            }
            Self::Folder(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn an_archive_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.tar.gz");
        let mut outlet = Outlet::open(&path).unwrap();
        outlet.add("a.txt", b"hello").unwrap();
        assert!(!path.exists());
        outlet.close().unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, FILE_MODE);
        let mut archive = tar::Archive::new(GzDecoder::new(std::fs::File::open(&path).unwrap()));
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap(), Path::new("b/a.txt"));
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");

        let left = folder.path().join("left.tgz");
        drop(Outlet::open(&left).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_is_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle");
        let mut outlet = Outlet::open(&path).unwrap();
        outlet.add("a.txt", b"hello").unwrap();
        outlet.close().unwrap();
        assert_eq!(std::fs::read(path.join("a.txt")).unwrap(), b"hello");
        assert!(Outlet::open(&path).is_err());
    }
}
