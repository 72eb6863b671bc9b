//! What a delegate was given, kept from ADD to DEL: by then `subnet.env` may say something else, or be gone.
//!
//! One file per container, `<dataDir>/<container>`, mode 0600: flannel's plugin and ours read each other's.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;

/// Container names begin with a letter or a digit, so no container's file can be taken for one of these.
const UNFINISHED: &str = ".unfinished-";

/// Replaces the file as a whole: whoever dies in the middle, also the machine, leaves none that is half.
///
/// # Errors
/// If the folder cannot be made or written to.
pub(crate) fn save(folder: &Path, container: &str, text: &str) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(folder.join(container))?;
    Ok(())
}

/// `None` if there is none.
///
/// # Errors
/// If it is there and cannot be read.
pub(crate) fn load(folder: &Path, container: &str) -> io::Result<Option<Vec<u8>>> {
    match fs::read(folder.join(container)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file that cannot be removed is in nobody's way: the next ADD replaces it.
pub(crate) fn forget(folder: &Path, container: &str) {
    let _ = fs::remove_file(folder.join(container));
}

/// All containers that have a file.
///
/// # Errors
/// If the folder is there and cannot be read.
pub(crate) fn containers(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut containers = Vec::new();
    for entry in entries {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if !name.is_empty() && !name.starts_with('.') {
            containers.push(name);
        }
    }
    Ok(containers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn files_are_for_root_alone_and_last_until_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("lib/cni/flannel");
        save(&folder, "c1", "{}").unwrap();
        save(&folder, "c1", "{\"a\":1}").unwrap();
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join("c1")), 0o600);
        assert_eq!(load(&folder, "c1").unwrap().unwrap(), b"{\"a\":1}");
        assert_eq!(containers(&folder).unwrap(), ["c1"]);
        forget(&folder, "c1");
        forget(&folder, "c1");
        assert_eq!(load(&folder, "c1").unwrap(), None);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn what_a_dead_one_left_is_no_container() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(format!("{UNFINISHED}x")), "{").unwrap();
        assert_eq!(containers(folder.path()).unwrap(), Vec::<String>::new());
        assert_eq!(
            containers(Path::new("/nope")).unwrap(),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_said() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(save(file.path(), "c1", "{}").is_err());
        assert!(load(file.path(), "c1").is_err());
    }
}
