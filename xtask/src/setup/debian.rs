//! Debian 12: packages by apt, and bpf-linker built against Debian's LLVM.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::needs::NEEDS;
use super::{GO_PROGRAMS, flanneld, is_root, tools};
use crate::workspace::Workspace;
use crate::{llvm, process};

/// The compiler for BPF with its `core`, and its clippy. Only in bookworm-security, and moved to newer
/// versions there, so no version is pinned.
const COMPILER: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf", "rust-web-clippy"];

/// The LLVM of that compiler while it is not installed and cannot be asked.
const EXPECTED_LLVM: u32 = 22;

const INSTALL_SCRIPT: &str = include_str!("install.sh");

/// All packages, LLVM among them.
pub(super) fn packages(workspace: &Workspace, dry_run: bool) -> Result<()> {
    // LLVM goes along in the same apt run, guessed while there is no compiler to ask.
    let guess = llvm_package(llvm_major().unwrap_or(EXPECTED_LLVM));
    let wanted = NEEDS
        .iter()
        .map(|need| need.package)
        .chain(COMPILER.iter().copied());
    // Go comes by it where there is none.
    let mut pip = flanneld::needs_pip(workspace)?;
    for program in GO_PROGRAMS {
        pip = pip || program.needs_pip(workspace)?;
    }
    let pip = pip.then_some("python3-pip");
    let wanted = wanted.chain(pip).map(str::to_owned);
    let wanted: Vec<String> = wanted.chain([guess.clone()]).collect();
    install(&wanted, dry_run)?;
    let package = llvm_package(installed_llvm(dry_run)?);
    if package != guess {
        install(&[package], dry_run)?;
    }
    Ok(())
}

pub(super) fn bpf_linker(workspace: &Workspace, dry_run: bool) -> Result<()> {
    let llvm = installed_llvm(dry_run)?;
    tools::ensure(workspace, &tools::bpf_linker(llvm), dry_run)
}

fn installed_llvm(dry_run: bool) -> Result<u32> {
    match (llvm_major(), dry_run) {
        (Some(major), _) => Ok(major),
        (None, true) => Ok(EXPECTED_LLVM),
        (None, false) => {
            bail!("Debian's /usr/bin/rustc does not run, though rustc-web is installed")
        }
    }
}

/// What `test --kernel` calls: the machine itself, and what packs its root, its modules and its disk.
const VIRTUAL_MACHINES: &[&str] = &["qemu-system-x86", "cpio", "kmod", "e2fsprogs", "binutils"];

pub(super) fn virtual_machines() -> Result<()> {
    let wanted: Vec<String> = VIRTUAL_MACHINES
        .iter()
        .map(|&name| name.to_owned())
        .collect();
    install(&wanted, false)
}

/// What runs pods, and what an engine for NetworkPolicy calls. Nothing of it is started: the machine has its own business.
const CLUSTER: &[&str] = &["containerd", "ipset", "runc"];

pub(super) fn cluster() -> Result<()> {
    let wanted: Vec<String> = CLUSTER.iter().map(|&name| name.to_owned()).collect();
    install(&wanted, false)
}

fn llvm_package(major: u32) -> String {
    format!("llvm-{major}-dev")
}

fn llvm_major() -> Option<u32> {
    let rustc = Path::new("/usr/bin/rustc");
    let version = process::read(Command::new(rustc).arg("-vV")).ok()?;
    llvm::of_rustc(&version).map(|version| version.major)
}

fn install(wanted: &[String], dry_run: bool) -> Result<()> {
    let missing = missing(wanted, &installed(wanted)?);
    if missing.is_empty() {
        println!("setup: all {} packages are installed", wanted.len());
        return Ok(());
    }
    println!("setup: packages to install: {}", missing.join(" "));
    if dry_run {
        return Ok(());
    }
    if !is_root()? {
        bail!(
            "installing packages needs root. Run `cargo xtask setup` as root, or: \
             sudo apt-get update && sudo apt-get install --no-install-recommends {}",
            missing.join(" ")
        );
    }
    process::run(
        Command::new("sh")
            .args(["-c", INSTALL_SCRIPT, "install.sh"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// Which of `packages` dpkg has installed and configured.
fn installed(packages: &[String]) -> Result<BTreeSet<String>> {
    // Exit code 1 only says that some are unknown to dpkg; the rest is still printed.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
        .args(packages)
        .output()
        .context("cannot start `dpkg-query`")?;
    Ok(parse_installed(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_installed(dpkg: &str) -> BTreeSet<String> {
    dpkg.lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .map(str::to_owned)
        .collect()
}

fn missing(wanted: &[String], installed: &BTreeSet<String>) -> Vec<String> {
    wanted
        .iter()
        .filter(|package| !installed.contains(*package))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_configured_packages_count_as_installed() {
        let dpkg = "bpftool installed\nethtool not-installed\niperf3 config-files\n\
                    iptables half-installed\nnftables unpacked\n";
        assert_eq!(
            parse_installed(dpkg),
            BTreeSet::from(["bpftool".to_owned()])
        );
    }

    #[test]
    fn what_is_missing_keeps_its_order() {
        let installed = BTreeSet::from(["b".to_owned()]);
        assert_eq!(
            missing(&names(&["c", "b", "a"]), &installed),
            names(&["c", "a"])
        );
        assert!(missing(&names(&["b"]), &installed).is_empty());
    }

    #[test]
    fn no_package_is_listed_twice() {
        let all: Vec<_> = NEEDS
            .iter()
            .map(|need| need.package)
            .chain(COMPILER.iter().copied())
            .collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }
}
