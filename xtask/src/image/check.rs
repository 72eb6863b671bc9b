//! `image --check`: the archive unpacked as a runtime does it, and what is in it run there, cut off from this machine's
//! files and network.

use std::fs;
use std::io::Write as _;
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

/// As the manifest's init container installs the plugin.
const INSTALL: &str =
    "cp -f /flannel /tmp/.flannel.new && mv -f /tmp/.flannel.new /tmp/flannel && exec /tmp/flannel";

pub(super) fn check(archive: &Path, folder: &Path) -> Result<()> {
    let opened = opened::open(archive)?;
    let tree = Tree::new_in(folder)?;
    opened.unpack(tree.path())?;
    let entry = opened.config["config"]["Entrypoint"][0].as_str();
    let entry = entry.context("the image has no entry point")?;
    let run = |program: &str, arguments: &[&str]| -> Result<String> {
        let mut command = contained(&opened, tree.path());
        process::read(command.arg(program).args(arguments))
            .with_context(|| format!("{program} does not run in the image"))
    };
    says(entry, &run(entry, &["--version"])?, "flannel-agent")?;
    for (program, word) in TOOLS {
        says(program, &run(program, &["--version"])?, word)?;
    }
    says(
        "the CNI plugin",
        &plugin(&opened, tree.path())?,
        "\"supportedVersions\"",
    )?;
    let bundle = tree.at("etc/ssl/certs/ca-certificates.crt");
    let bundle =
        fs::read_to_string(&bundle).with_context(|| format!("cannot read {}", bundle.display()))?;
    let authorities = bundle.matches("-----BEGIN CERTIFICATE-----").count();
    ensure!(
        authorities > AUTHORITIES,
        "only {authorities} certificates of authorities"
    );
    println!(
        "image: {entry}, {} tools and the CNI plugin run in it",
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

/// The answer to VERSION.
fn plugin(opened: &Opened, root: &Path) -> Result<String> {
    let mut command = contained(opened, root);
    command
        .args(["CNI_COMMAND=VERSION", "sh", "-ec", INSTALL])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let shown = process::show(&command);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may end without reading; then what it says tells why.
        let _ = stdin.write_all(br#"{"cniVersion": "1.1.0"}"#);
    }
    let output = child.wait_with_output();
    let output = output.with_context(|| format!("cannot wait for `{shown}`"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "`{shown}` failed: {}\n{said}",
        output.status
    );
    Ok(said)
}

fn says(program: &str, said: &str, word: &str) -> Result<()> {
    ensure!(
        said.contains(word),
        "{program} in the image says nothing of {word}: {said}"
    );
    Ok(())
}
