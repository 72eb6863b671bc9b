//! Build tools that no distribution has in the version we need, compiled into `.cache/tools`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::workspace::{self, Workspace};
use crate::{llvm, process};

pub(crate) const BPF_LINKER_VERSION: &str = "0.13.0";

/// A program from crates.io.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// Major of the LLVM it must be linked to.
    pub(crate) llvm: Option<u32>,
}

pub(crate) const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    llvm: None,
};

pub(crate) fn bpf_linker(llvm: u32) -> Tool {
    Tool {
        name: "bpf-linker",
        version: BPF_LINKER_VERSION,
        llvm: Some(llvm),
    }
}

/// Compiles `tool` unless it is there in the right version and with the right LLVM.
pub(crate) fn ensure(workspace: &Workspace, tool: &Tool, dry_run: bool) -> Result<()> {
    let Tool { name, version, .. } = tool;
    let place = workspace.tool(name);
    if fits(tool, &place)? {
        println!("setup: {name} {version} is in {}", place.display());
        return Ok(());
    }
    println!(
        "setup: compiling {name} {version} into {} (minutes)",
        place.display()
    );
    if dry_run {
        return Ok(());
    }
    process::run(&mut install_command(workspace, tool))
        .with_context(|| format!("cannot install {name} {version}"))
}

fn fits(tool: &Tool, place: &Path) -> Result<bool> {
    let Ok(printed) = process::read(Command::new(place).arg("--version")) else {
        return Ok(false);
    };
    if !is_version(tool, &printed) {
        return Ok(false);
    }
    match tool.llvm {
        None => Ok(true),
        Some(major) => Ok(llvm::of_linker(place)?.is_some_and(|found| found.major == major)),
    }
}

/// `printed` is the output of `--version`: name and version.
fn is_version(tool: &Tool, printed: &str) -> bool {
    printed.split_whitespace().eq([tool.name, tool.version])
}

fn install_command(workspace: &Workspace, tool: &Tool) -> Command {
    let mut command = Command::new(workspace::cargo());
    command
        // Not in the repository: its .cargo/config.toml is not meant for other people's programs.
        .current_dir("/")
        .args(["install", "--locked", "--force", "--root"])
        .arg(workspace.tools_dir())
        .args([tool.name, "--version", tool.version]);
    if let Some(major) = tool.llvm {
        command
            .args([
                "--no-default-features",
                "--features",
                &format!("llvm-{major}"),
            ])
            // Debian's plain llvm-config is of its default LLVM, 14.
            .env("LLVM_PREFIX", format!("/usr/lib/llvm-{major}"));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_must_be_equal() {
        assert!(is_version(&bpf_linker(22), "bpf-linker 0.13.0\n"));
        assert!(!is_version(&bpf_linker(22), "bpf-linker 0.13.1"));
        assert!(!is_version(&CARGO_DENY, "bpf-linker 0.20.2"));
    }

    #[test]
    fn bpf_linker_is_built_for_one_llvm() {
        let command = install_command(&Workspace::at("/repo"), &bpf_linker(23));
        assert!(process::show(&command).ends_with(
            "install --locked --force --root /repo/.cache/tools bpf-linker --version 0.13.0 \
             --no-default-features --features llvm-23"
        ));
        assert!(command.get_envs().any(|(name, value)| name == "LLVM_PREFIX"
            && value.is_some_and(|value| value == "/usr/lib/llvm-23")));
    }
}
