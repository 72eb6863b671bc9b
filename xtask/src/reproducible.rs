//! Does the same source give the same object in another folder?

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::builder::{Builder, sha256};
use crate::process;
use crate::workspace::Workspace;

/// Builds a copy of the tree, uncommitted changes included, in a temporary folder and compares.
///
/// # Errors
/// When the bytes differ; both objects' hashes are named.
pub(crate) fn check(workspace: &Workspace, builder: &Builder, object: &[u8]) -> Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("flannel-ebpf-reproducible-")
        .tempdir()
        .context("cannot make a temporary folder")?;
    println!("build-ebpf: building a copy in {}", folder.path().display());
    copy_tree(workspace, folder.path())?;
    let elsewhere = Workspace::at(folder.path());
    let copy = builder.with_linker_of(&elsewhere)?.build(&elsewhere)?;
    if copy != object {
        bail!(
            "not reproducible: {} here, {} in another folder",
            sha256(object),
            sha256(&copy)
        );
    }
    println!("build-ebpf: reproducible, both folders give the same bytes");
    Ok(())
}

/// What git tracks or would track: build output and caches stay behind.
fn copy_tree(workspace: &Workspace, to: &Path) -> Result<()> {
    let files = process::read(Command::new("git").current_dir(workspace.root()).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    for name in files.split('\0').filter(|name| !name.is_empty()) {
        let from = workspace.root().join(name);
        // Deleted but not yet committed.
        if !from.exists() {
            continue;
        }
        let target = to.join(name);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make folder {}", parent.display()))?;
        }
        fs::copy(&from, &target)
            .with_context(|| format!("cannot copy {} to {}", from.display(), target.display()))?;
    }
    Ok(())
}
