//! A real cluster in namespaces: `test --cluster`, `test --sig-network` and `demo --kubernetes`. What it needs is built here; the
//! cluster itself is the tests' example `cluster`.

use std::ffi::OsString;
use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::image::{self, Image};
use crate::process;
use crate::setup::{self, ClusterFor, Setup};
use crate::workspace::Workspace;

/// The example's word for Kubernetes' own tests.
pub(crate) const SIG_NETWORK: &str = "sig-network";

/// What the example is asked for, and more for it.
pub(crate) fn run(workspace: &Workspace, verb: &str, passed_on: &[OsString]) -> Result<()> {
    let what_for = match verb {
        SIG_NETWORK => ClusterFor::SigNetwork,
        _ => ClusterFor::Ours,
    };
    Setup::default().run(workspace)?;
    setup::cluster(workspace, what_for)?;
    // To try a change without a release build: the agent is in the image as it is in target/release.
    let no_build = std::env::var_os("FLANNEL_CLUSTER_NO_BUILD").is_some();
    Image::plain(no_build)?.run(workspace)?;

    let folder = workspace.root().join("target/cluster");
    // Of an earlier run, with other names maybe.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let manifest = setup::flannels_manifest(workspace)?;
    let names = images(&manifest);
    ensure!(!names.is_empty(), "flannel's manifest names no image");
    let file = folder.join("kube-flannel.yml");
    fs::write(&file, &manifest).with_context(|| format!("cannot write {}", file.display()))?;
    image::pod(&folder)?;
    image::flannel(workspace, &workspace.image(), &names, &folder)?;
    if what_for == ClusterFor::SigNetwork {
        image::e2e(workspace, &folder)?;
    }

    process::run(
        workspace
            .cargo()
            .args(["run", "--quiet", "--locked"])
            .args(["--package", "flannel-tests", "--example", "cluster"])
            .args(["--", verb])
            .args(passed_on),
    )
}

/// Each once, in their order.
fn images(manifest: &str) -> Vec<&str> {
    let lines = manifest.lines().map(str::trim);
    let named = lines.filter_map(|line| line.trim_start_matches("- ").strip_prefix("image: "));
    let mut images: Vec<&str> = Vec::new();
    for name in named {
        if !images.contains(&name) {
            images.push(name);
        }
    }
    images
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_once() {
        let manifest =
            "  - name: a\n    image: x/y:1\n  - image: x/z:2\n    name: b\n  - image: x/y:1\n";
        assert_eq!(images(manifest), ["x/y:1", "x/z:2"]);
    }
}
