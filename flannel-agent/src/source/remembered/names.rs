//! The names of the networks that a daemon follows in the datastore, kept for a start without that.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use anyhow::Context as _;

use crate::base::files;

/// What was last written; `None` without a file.
///
/// # Errors
/// It cannot be read or understood.
pub fn read(file: &Path) -> anyhow::Result<Option<BTreeSet<String>>> {
    match std::fs::read(file) {
        Ok(text) => {
            let names = serde_json::from_slice(&text);
            Ok(Some(names.with_context(|| {
                format!("cannot use {}", file.display())
            })?))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// Blocks for as long as the disk takes.
///
/// # Errors
/// It cannot be written.
pub fn write(file: &Path, names: &BTreeSet<String>) -> anyhow::Result<()> {
    files::replace_in_new_folder(file, &serde_json::to_vec(names)?)
        .with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/many.networks.json");
        assert_eq!(read(&file).unwrap(), None);
        let names = BTreeSet::from(["blue", "red"].map(str::to_owned));
        write(&file, &names).unwrap();
        assert_eq!(read(&file).unwrap(), Some(names));
        std::fs::write(&file, "blue").unwrap();
        let error = read(&file).unwrap_err().to_string();
        assert!(error.contains("many.networks.json"), "{error}");
    }
}
