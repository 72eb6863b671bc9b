//! The lower layer: what a container of debian:12-slim with the Dockerfile's packages has of use for the agent, from the
//! same packages. No script of a package runs; what those would have made is made here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::dockerfile::Recipe;
use super::tree::Tree;
use crate::apt::Apt;
use crate::archive;
use crate::process;

/// Of the base image: what the manifests' commands are, beside the shell.
const COMMANDS: &[&str] = &["coreutils"];
/// Those that depend on others for their scripts only.
const ALONE: &[&str] = &["base-files", "base-passwd", "ca-certificates", "dash"];

/// Packages are unpacked without these. Copyrights stay.
const WITHOUT: &[&str] = &[
    "./usr/lib/*/gconv",
    "./usr/share/bash-completion",
    "./usr/share/doc/*/[!c]*",
    "./usr/share/doc/*/c[!o]*",
    "./usr/share/info",
    "./usr/share/lintian",
    "./usr/share/locale",
    "./usr/share/man",
    // Made a link below, as base-files' script does.
    "./var/run",
    // They need what is not here.
    "./usr/sbin/update-ca-certificates",
    "./usr/sbin/update-passwd",
];

/// What `update-alternatives` links to the kind that Debian prefers.
const ALTERNATIVES: &[&str] = &["iptables", "ip6tables"];

/// Names that the agent looks up: without this file the GNU C library asks DNS before `/etc/hosts`.
const NSSWITCH: &str =
    "passwd: files\ngroup: files\nhosts: files dns\nprotocols: files\nservices: files\n";

/// Fetches and unpacks. Returns names and versions.
pub(super) fn stage(tree: &Tree, recipe: &Recipe, cache: &Path) -> Result<Vec<String>> {
    for folder in ["bin", "sbin", "lib", "lib64"] {
        tree.folder(&format!("usr/{folder}"))?;
        tree.link(folder, &format!("usr/{folder}"))?;
    }
    let mut names = Vec::new();
    let mut status = String::new();
    for package in packages(recipe, cache)? {
        archive::unpack(&package, tree.path(), WITHOUT)?;
        let paragraph = process::read(Command::new("dpkg-deb").arg("--field").arg(&package))?;
        names.push(identity(&paragraph).with_context(|| format!("{}", package.display()))?);
        status += &installed(&paragraph);
    }
    // Scanners look here for what is known of these versions.
    tree.file("var/lib/dpkg/status", 0o644, status.as_bytes())?;
    for tables in ALTERNATIVES {
        for verb in ["", "-restore", "-save"] {
            let link = format!("usr/sbin/{tables}{verb}");
            tree.link(&link, &format!("{tables}-nft{verb}"))?;
        }
    }
    tree.link("var/run", "/run")?;
    tree.file("etc/nsswitch.conf", 0o644, NSSWITCH.as_bytes())?;
    for file in ["passwd", "group"] {
        let master = tree.at(&format!("usr/share/base-passwd/{file}.master"));
        tree.copy(&master, &format!("etc/{file}"), 0o644)?;
    }
    let bundle = certificates(&tree.at("usr/share/ca-certificates"))?;
    tree.file("etc/ssl/certs/ca-certificates.crt", 0o644, &bundle)?;
    Ok(names)
}

fn packages(recipe: &Recipe, cache: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let apt = Apt::own(cache).context(
        "cannot fetch Debian's packages: `apt-get update` has to work here, for their mirror",
    )?;
    // Of an earlier image: maybe other versions.
    apt.forget_downloads()?;
    let whole = recipe.packages.iter().map(String::as_str);
    let whole: Vec<&str> = whole
        .filter(|name| !ALONE.contains(name))
        .chain(COMMANDS.iter().copied())
        .collect();
    apt.closure(&whole)?;
    let alone: Vec<String> = ALONE.iter().map(|&name| name.to_owned()).collect();
    apt.exactly(&alone)
}

/// `iptables 1.8.9-2`
fn identity(paragraph: &str) -> Result<String> {
    let field = |name: &str| {
        let value = paragraph.lines().find_map(|line| line.strip_prefix(name));
        value.with_context(|| format!("the package does not say its {name}"))
    };
    Ok(format!("{} {}", field("Package: ")?, field("Version: ")?))
}

/// A package's paragraph as dpkg keeps it once the package is there.
fn installed(paragraph: &str) -> String {
    let (name, rest) = paragraph.split_once('\n').unwrap_or((paragraph, ""));
    format!(
        "{name}\nStatus: install ok installed\n{}\n\n",
        rest.trim_end()
    )
}

/// As `update-ca-certificates` puts them into one file.
fn certificates(folder: &Path) -> Result<Vec<u8>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let cannot = || format!("cannot read {}", folder.display());
        for entry in fs::read_dir(&folder).with_context(cannot)? {
            let path = entry.with_context(cannot)?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "crt") {
                files.push(path);
            }
        }
    }
    ensure!(!files.is_empty(), "no certificate in {}", folder.display());
    files.sort();
    let mut bundle = Vec::new();
    for file in files {
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        bundle.extend(text.trim_ascii_end());
        bundle.push(b'\n');
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpkg_is_told_what_is_there() {
        let paragraph = "Package: iptables\nVersion: 1.8.9-2\nDescription: tools\n for rules";
        assert_eq!(identity(paragraph).unwrap(), "iptables 1.8.9-2");
        assert_eq!(
            installed(paragraph),
            "Package: iptables\nStatus: install ok installed\nVersion: 1.8.9-2\nDescription: tools\n for rules\n\n"
        );
    }

    #[test]
    fn certificates_are_joined_in_order_and_each_ends_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        file("mozilla/b.crt", "B");
        file("mozilla/a.crt", "A\n\n");
        file("c.crt", "C\n");
        file("README", "no certificate");
        let joined = certificates(folder.path()).unwrap();
        assert_eq!(String::from_utf8(joined).unwrap(), "C\nA\nB\n");
        let nothing = tempfile::tempdir().unwrap();
        let error = certificates(nothing.path()).unwrap_err().to_string();
        assert!(error.contains("no certificate in"), "{error}");
    }
}
