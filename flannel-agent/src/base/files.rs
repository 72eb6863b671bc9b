//! Files that others read while we write them.

use std::fs::{DirBuilder, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

const DIR_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;
const PRIVATE_MODE: u32 = 0o600;
const SECRET_MODE: u32 = 0o400;

/// Replaces the file at `path` as a whole, readable by everybody.
///
/// # Errors
/// When it cannot be written; the old file is then still there.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    replace_with_mode(path, contents, FILE_MODE)
}

/// The same, for nobody but the owner: nobody else can put a lock on it either.
///
/// # Errors
/// When it cannot be written; the old file is then still there.
pub(crate) fn replace_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    replace_with_mode(path, contents, PRIVATE_MODE)
}

fn replace_with_mode(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    // A rename within one folder is atomic: no reader ever sees half a file. The leading dot keeps it
    // from those who take every file in the folder, such as container runtimes in /etc/cni/net.d.
    let mut file = tempfile::Builder::new()
        .prefix(".flannel-agent.")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder(path))?;
    // The mode at creation is cut by the umask, this one is not.
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    file.write_all(contents)?;
    // After a power cut the name may else lead to an empty file.
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// As [`replace`]; creates the file's folder when missing.
///
/// # Errors
/// When folder or file cannot be written.
pub(crate) fn replace_in_new_folder(path: &Path, contents: &[u8]) -> io::Result<()> {
    make_folder(path)?;
    replace(path, contents)
}

/// As [`replace_private`]; creates the file's folder when missing.
///
/// # Errors
/// When folder or file cannot be written.
pub(crate) fn replace_private_in_new_folder(path: &Path, contents: &[u8]) -> io::Result<()> {
    make_folder(path)?;
    replace_private(path, contents)
}

/// A key that the owner reads, and nobody writes; creates the file's folder when missing.
///
/// # Errors
/// When folder or file cannot be written.
pub(crate) fn write_secret_in_new_folder(path: &Path, contents: &[u8]) -> io::Result<()> {
    make_folder(path)?;
    replace_with_mode(path, contents, SECRET_MODE)
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(folder(path))
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
