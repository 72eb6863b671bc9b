//! Images that a cluster without a registry has beside ours: what pods are made of, and flannel.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::layer::{self, Layer};
use super::oci::Image;
use super::tree::Tree;
use super::{architecture, opened, rfc3339, write};
use crate::process;
use crate::workspace::Workspace;

const PAUSE: &str = include_str!("pause.c");

/// The program of flannel's images that its module does not have under this name: it copies, and leaves alone what is there
/// already.
const INSTALL_CONF: &str = "#!/bin/sh\nexec cp -f \"$1\" \"$2\"\n";

/// Since 1970; the same files are to be the same image.
pub(super) const MTIME: u64 = 0;

/// Pods: `/pause`, and nothing where a pod mounts the node's `/usr`.
pub(crate) fn pod(folder: &Path) -> Result<PathBuf> {
    let tree = Tree::new_in(folder)?;
    let source = folder.join("pause.c");
    std::fs::write(&source, PAUSE).with_context(|| format!("cannot write {}", source.display()))?;
    process::run(
        Command::new("cc")
            .args(["-static", "-Os", "-s", "-o"])
            .arg(tree.at("pause"))
            .arg(&source),
    )?;
    for name in ["dev", "etc", "proc", "run", "sys", "tmp", "usr", "var"] {
        tree.folder(name)?;
    }
    for name in ["bin", "lib", "lib64", "sbin"] {
        tree.link(name, &format!("usr/{name}"))?;
    }
    let layers = [Layer::pack(tree.path(), MTIME, "pause".to_owned())?];
    let archive = folder.join("pod.tar");
    pack("local/pod:1", &["/pause".to_owned()], &layers, &archive)?;
    Ok(archive)
}

/// Both images that flannel's manifest asks for, under the names that it has for them: real flanneld above the files of our
/// image, and as the plugin our own, since flannel's is in no module.
pub(crate) fn flannel(
    workspace: &Workspace,
    ours: &Path,
    names: &[&str],
    folder: &Path,
) -> Result<Vec<PathBuf>> {
    let tree = Tree::new_in(folder)?;
    tree.copy(&workspace.tool("flanneld"), "opt/bin/flanneld", 0o755)?;
    tree.file("opt/bin/install-conf", 0o755, INSTALL_CONF.as_bytes())?;
    let mut layers = Vec::new();
    for plain in opened::open(ours)?.layers {
        layers.push(Layer::stored(plain, "our image".to_owned()));
    }
    let flanneld = layer::plain(tree.path(), MTIME)?;
    layers.push(Layer::stored(flanneld, "flanneld".to_owned()));
    let entry = ["/opt/bin/flanneld".to_owned()];
    let mut archives = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let archive = folder.join(format!("flannel-{number}.tar"));
        pack(name, &entry, &layers, &archive)?;
        archives.push(archive);
    }
    Ok(archives)
}

fn pack(name: &str, entrypoint: &[String], layers: &[Layer], archive: &Path) -> Result<()> {
    let name = name.parse().map_err(anyhow::Error::msg)?;
    let layers: Vec<&Layer> = layers.iter().collect();
    let image = Image {
        name: &name,
        architecture: architecture(std::env::consts::ARCH)?,
        entrypoint,
        command: &[],
        created: &rfc3339(MTIME)?,
        mtime: MTIME,
        layers: &layers,
    };
    let folder = archive.parent().context("the archive's folder")?;
    write(&image, archive, folder)?;
    Ok(())
}
