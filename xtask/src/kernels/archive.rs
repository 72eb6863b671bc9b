//! Debian packages unpacked, and trees packed for an initramfs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;

/// Unpacks a package without running its scripts. A link from `/lib` to `/usr/lib` stays a link, which
/// `dpkg-deb --extract` would replace by a folder.
pub(super) fn unpack(package: &Path, to: &Path) -> Result<()> {
    shell(
        r#"dpkg-deb --fsys-tarfile "$1" | tar --extract --keep-directory-symlink --directory "$2" \
           --exclude './usr/share/doc' --exclude './usr/share/man' --exclude './usr/share/locale' \
           --exclude './usr/share/info' --exclude './usr/share/perl*' --exclude './usr/lib/*/perl*'"#,
        &[package, to],
    )
}

/// Packs `tree` in the format of an initramfs.
pub(super) fn pack(tree: &Path, archive: &Path) -> Result<()> {
    let begun = archive.with_extension("begun");
    shell(
        r#"cd "$1" && find . | LC_ALL=C sort | cpio --create --format=newc --owner=0:0 --quiet > "$2""#,
        &[tree, &begun],
    )?;
    fs::rename(&begun, archive).with_context(|| format!("write {}", archive.display()))
}

fn shell(script: &str, arguments: &[&Path]) -> Result<()> {
    // bash, for `pipefail`: a damaged package is tar's last word, not its first.
    process::run(
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", script, "bash"])
            .args(arguments),
    )
}
