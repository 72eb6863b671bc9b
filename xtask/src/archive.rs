//! Debian packages unpacked, and trees packed for an initramfs.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;

/// What nobody reads in a guest.
pub(crate) const UNREAD: &[&str] = &[
    "./usr/share/doc",
    "./usr/share/man",
    "./usr/share/locale",
    "./usr/share/info",
    "./usr/share/perl*",
    "./usr/lib/*/perl*",
];

/// Unpacks a package, but for files of these patterns, without running its scripts. A link from `/lib` to `/usr/lib`
/// stays a link, which `dpkg-deb --extract` would replace by a folder.
pub(crate) fn unpack(package: &Path, to: &Path, without: &[&str]) -> Result<()> {
    let mut arguments = vec![package.as_os_str().to_owned(), to.as_os_str().to_owned()];
    arguments.extend(without.iter().map(|it| format!("--exclude={it}").into()));
    shell(
        r#"dpkg-deb --fsys-tarfile "$1" |
           tar --extract --preserve-permissions --keep-directory-symlink --directory "$2" "${@:3}""#,
        &arguments,
    )
}

/// Packs `tree` in the format of an initramfs.
pub(crate) fn pack(tree: &Path, archive: &Path) -> Result<()> {
    let begun = archive.with_extension("begun");
    shell(
        r#"cd "$1" && find . | LC_ALL=C sort | cpio --create --format=newc --owner=0:0 --quiet > "$2""#,
        &[tree, begun.as_path()],
    )?;
    fs::rename(&begun, archive).with_context(|| format!("write {}", archive.display()))
}

fn shell(script: &str, arguments: &[impl AsRef<OsStr>]) -> Result<()> {
    // bash, for `pipefail`: a damaged package is tar's last word, not its first.
    process::run(
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", script, "bash"])
            .args(arguments),
    )
}
