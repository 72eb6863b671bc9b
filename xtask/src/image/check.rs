//! `image --check`: the archive unpacked as a runtime does it, and what is in it run there, cut off from this machine's
//! files and network.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::opened::{self, Opened};
use super::tree::Tree;
use crate::process;

/// Debian trusts more than a hundred authorities.
const AUTHORITIES: usize = 100;

/// A program, and a word of what it says of itself.
const TOOLS: &[(&str, &str)] = &[
    ("iptables", "(nf_tables)"),
    ("iptables-restore", "(nf_tables)"),
    ("iptables-nft", "(nf_tables)"),
    ("iptables-nft-restore", "(nf_tables)"),
    ("iptables-legacy", "(legacy)"),
    ("iptables-legacy-restore", "(legacy)"),
    ("nft", "nftables v"),
];

/// As the manifest's init container installs the plugin, and asked for its versions.
const PLUGIN: &str = "cp -f /flannel /tmp/.flannel.new && mv -f /tmp/.flannel.new /tmp/flannel && \
                      echo '{\"cniVersion\": \"1.1.0\"}' | CNI_COMMAND=VERSION /tmp/flannel";

pub(super) fn check(archive: &Path, folder: &Path) -> Result<()> {
    let opened = opened::open(archive)?;
    let tree = Tree::new_in(folder)?;
    opened.unpack(tree.path())?;
    let entry = opened.config["config"]["Entrypoint"][0].as_str();
    let entry = entry.context("the image has no entry point")?;
    let says = |program: &str, arguments: &[&str], word: &str| {
        let mut command = contained(&opened, tree.path());
        let said = said(command.arg(program).args(arguments))
            .with_context(|| format!("{program} does not run in the image"))?;
        ensure!(
            said.contains(word),
            "{program} in the image says nothing of {word}: {said}"
        );
        Ok(())
    };
    has_no_identity(tree.path())?;
    says(entry, &["--version"], env!("CARGO_PKG_VERSION"))?;
    for (program, word) in TOOLS {
        says(program, &["--version"], word)?;
    }
    says("sh", &["-ec", PLUGIN], "\"supportedVersions\"")?;
    let bundle = tree.at("etc/ssl/certs/ca-certificates.crt");
    let bundle =
        fs::read_to_string(&bundle).with_context(|| format!("cannot read {}", bundle.display()))?;
    let authorities = bundle.matches("-----BEGIN CERTIFICATE-----").count();
    ensure!(
        authorities > AUTHORITIES,
        "only {authorities} certificates of authorities"
    );
    let name = &opened.index["manifests"][0]["annotations"]["io.containerd.image.name"];
    println!(
        "image: {entry}, {} tools and the CNI plugin run in {name}",
        TOOLS.len()
    );
    Ok(())
}

/// One machine-id in an image would make all nodes one machine, and each version another. Of one that is empty nobody takes it.
fn has_no_identity(root: &Path) -> Result<()> {
    let file = root.join("etc/machine-id");
    let id = fs::read_to_string(&file).unwrap_or_default();
    let id = id.trim();
    ensure!(
        id.is_empty() || id == "uninitialized",
        "the image has a machine-id, {id}: leave /etc/machine-id out, or empty"
    );
    Ok(())
}

/// What runs in the image's root, with its environment, in fresh namespaces.
fn contained(opened: &Opened, root: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--net", "--pid", "--ipc", "--uts", "--fork"])
        .arg(format!("--root={}", root.display()))
        .arg("--")
        .arg("/usr/bin/env")
        .arg("--ignore-environment");
    let variables = opened.config["config"]["Env"].as_array();
    command.args(variables.into_iter().flatten().filter_map(|it| it.as_str()));
    command
}

/// On both ways: the agent says its version where flanneld does, as an error.
fn said(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", process::show(command)))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim_end().to_owned();
    ensure!(
        output.status.success(),
        "`{}` failed: {}\n{said}",
        process::show(command),
        output.status
    );
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_with_the_id_of_a_machine_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let put = |id: &str| {
            fs::create_dir_all(root.path().join("etc")).unwrap();
            fs::write(root.path().join("etc/machine-id"), id).unwrap();
        };
        has_no_identity(root.path()).unwrap();
        for nobodys in ["", "\n", "uninitialized\n"] {
            put(nobodys);
            has_no_identity(root.path()).unwrap();
        }
        put("3c1f8d7bb4f54ccfa0cb4ac2a3a96a5f\n");
        let error = has_no_identity(root.path()).unwrap_err().to_string();
        assert!(error.contains("3c1f8d7b"), "{error}");
    }
}
