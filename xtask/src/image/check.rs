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
