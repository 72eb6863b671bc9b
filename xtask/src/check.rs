//! `check`: format, the order of the modules, lints on both targets, generated pages, and the rules for dependencies.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::build_ebpf::BuildEbpf;
use crate::builder::Builder;
use crate::docs;
use crate::floors;
use crate::process;
use crate::setup;
use crate::workspace::Workspace;

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Leave out cargo-deny, which is compiled on first use and takes minutes
    #[arg(long)]
    no_deny: bool,
}

impl Check {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<()> {
        let mut failed = Vec::new();
        let mut step = |name: &'static str, result: Result<()>| {
            if let Err(error) = result {
                eprintln!("check: {name}: {error:#}");
                failed.push(name);
            }
        };
        step("format", format(workspace));
        step("floors", floors::check(workspace));
        step("programs", BuildEbpf::default().run(workspace));
        step("lints on the host", lint_host(workspace));
        step("lints on BPF", lint_bpf(workspace));
        step("generated pages", docs::check_all(workspace));
        if self.no_deny {
            println!("check: dependencies not checked (--no-deny)");
        } else {
            step("dependencies", deny(workspace));
        }
        if failed.is_empty() {
            println!("check: all well");
            return Ok(());
        }
        bail!("check failed: {}", failed.join(", "))
    }
}

fn format(workspace: &Workspace) -> Result<()> {
    println!("check: format");
    process::run(workspace.cargo().args(["fmt", "--all", "--check"]))
}

/// All crates, flannel-ebpf with its empty host `main` included.
fn lint_host(workspace: &Workspace) -> Result<()> {
    println!("check: clippy on the host");
    process::run(workspace.cargo().args([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}

/// The programs as the BPF target sees them, when the compiler that builds them has a clippy.
fn lint_bpf(workspace: &Workspace) -> Result<()> {
    let builder = Builder::find(workspace, None, None)?;
    let Some(clippy) = clippy_beside(builder.rustc()) else {
        println!(
            "check: NOT linted on BPF: {} has no cargo-clippy beside it \
             (Debian: rust-web-clippy; rustup: component clippy)",
            builder.rustc().display()
        );
        return Ok(());
    };
    println!("check: clippy on BPF ({})", clippy.display());
    let mut command = builder.cargo_command(workspace, Command::new(&clippy), "clippy")?;
    process::run(command.args(["--", "-D", "warnings"]))
}

/// cargo-clippy takes the clippy-driver from its own folder, which must be of the compiler's release.
fn clippy_beside(rustc: &Path) -> Option<PathBuf> {
    let folder = rustc.parent()?;
    let clippy = folder.join("cargo-clippy");
    (clippy.is_file() && folder.join("clippy-driver").is_file()).then_some(clippy)
}

fn deny(workspace: &Workspace) -> Result<()> {
    setup::cargo_deny(workspace)?;
    let deny = workspace.tool(setup::CARGO_DENY.name);
    let deny = |args: &[&str]| {
        let mut command = Command::new(&deny);
        command.current_dir(workspace.root()).args(args);
        command
    };
    println!("check: licences, duplicate versions, sources");
    process::run(&mut deny(&["check", "bans", "licenses", "sources"]))?;

    // The list of known holes is a git repository elsewhere; without network there is none.
    println!("check: known holes in dependencies");
    let mut fetch = Command::new("timeout");
    fetch
        .arg("60")
        .arg(workspace.tool(setup::CARGO_DENY.name))
        .args(["fetch", "db"]);
    match process::read(fetch.current_dir(workspace.root())) {
        Ok(_) => process::run(&mut deny(&["check", "--disable-fetch", "advisories"])),
        Err(error) => {
            println!("check: NOT checked against known holes: cannot fetch the list ({error:#})");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clippy_needs_its_driver_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let rustc = folder.path().join("rustc");
        assert_eq!(clippy_beside(&rustc), None);
        std::fs::write(folder.path().join("cargo-clippy"), "").unwrap();
        assert_eq!(clippy_beside(&rustc), None);
        std::fs::write(folder.path().join("clippy-driver"), "").unwrap();
        assert_eq!(
            clippy_beside(&rustc),
            Some(folder.path().join("cargo-clippy"))
        );
    }
}
