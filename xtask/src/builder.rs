//! What compiles the BPF programs, the same way everywhere.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::llvm::{self, LlvmVersion};
use crate::process;
use crate::toolchain::{self, BPF_TARGET, Core, Toolchain};
use crate::workspace::{self, Workspace};

const PACKAGE: &str = "flannel-ebpf";

/// Compiler, linker and strip that fit each other.
#[derive(Debug, Clone)]
pub(crate) struct Builder {
    toolchain: Toolchain,
    linker: PathBuf,
    strip: PathBuf,
}

impl Builder {
    pub(crate) fn find(
        workspace: &Workspace,
        rustc: Option<&Path>,
        linker: Option<&Path>,
    ) -> Result<Self> {
        let toolchain = toolchain::find(rustc)?;
        println!("build-ebpf: compiler {toolchain}");
        let linker =
            linker.map_or_else(|| find_linker(workspace), |path| Ok(path.to_path_buf()))?;
        match llvm::of_linker(&linker)? {
            Some(version) => {
                println!("build-ebpf: linker {} (LLVM {version})", linker.display());
                llvm::check_match(toolchain.llvm, version)?;
            }
            None => println!(
                "build-ebpf: linker {} (its LLVM is linked in and cannot be read; must be {})",
                linker.display(),
                toolchain.llvm.major
            ),
        }
        let strip = find_strip(toolchain.llvm)?;
        Ok(Self {
            toolchain,
            linker,
            strip,
        })
    }

    /// The same tools with the linker reached through `other`'s own path, as in another checkout:
    /// its path is a compiler flag and must not show in the object either.
    pub(crate) fn with_linker_of(&self, other: &Workspace) -> Result<Self> {
        let linker = other.tool("bpf-linker");
        if let Some(folder) = linker.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make folder {}", folder.display()))?;
        }
        std::os::unix::fs::symlink(&self.linker, &linker)
            .with_context(|| format!("cannot link {}", linker.display()))?;
        Ok(Self {
            linker,
            ..self.clone()
        })
    }

    /// Builds, strips, and puts the object in its place. Returns its bytes.
    pub(crate) fn build(&self, workspace: &Workspace) -> Result<Vec<u8>> {
        self.compile(workspace)?;
        let built = workspace
            .bpf_build_dir()
            .join(BPF_TARGET)
            .join("release")
            .join(PACKAGE);
        let stripped = built.with_extension("stripped");
        process::run(
            Command::new(&self.strip)
                .arg("-g")
                .arg("-o")
                .arg(&stripped)
                .arg(&built),
        )?;
        let object =
            fs::read(&stripped).with_context(|| format!("cannot read {}", stripped.display()))?;

        let place = workspace.bpf_object();
        let changed = write_if_changed(&place, &object)?;
        println!(
            "build-ebpf: {} ({} bytes, {})",
            place.display(),
            object.len(),
            if changed { "changed" } else { "unchanged" }
        );
        println!("build-ebpf: sha256 {}", sha256(&object));
        Ok(object)
    }

    fn compile(&self, workspace: &Workspace) -> Result<()> {
        process::run(&mut self.cargo_command(workspace, Command::new(self.cargo()), "build")?)
    }

    pub(crate) fn rustc(&self) -> &Path {
        &self.toolchain.rustc
    }

    /// `program` (cargo, or a cargo-clippy) with `verb` on the programs for the BPF target.
    pub(crate) fn cargo_command(
        &self,
        workspace: &Workspace,
        program: Command,
        verb: &str,
    ) -> Result<Command> {
        let mut command = program;
        command
            .current_dir(workspace.root())
            .args([verb, "--locked", "--release", "--package", PACKAGE])
            .args(["--target", BPF_TARGET])
            .arg("--target-dir")
            .arg(workspace.bpf_build_dir())
            .env("CARGO", self.cargo())
            .env("RUSTC", &self.toolchain.rustc)
            // aya-ebpf needs `asm_experimental_arch`, which no stable compiler allows otherwise.
            .env("RUSTC_BOOTSTRAP", "1")
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                encode(&self.rustflags(workspace)?),
            )
            // Wrappers and flags meant for the host's compiler do not fit this one.
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .env_remove("RUSTFLAGS");
        if self.toolchain.core == Core::FromSource {
            command.args(["-Z", "build-std=core"]);
        }
        Ok(command)
    }

    /// `-Z build-std` reads the lock file of the compiler's own library, so cargo must be of the same
    /// release; with a prebuilt core any cargo does.
    fn cargo(&self) -> PathBuf {
        let own = self.toolchain.sysroot.join("bin/cargo");
        if self.toolchain.core == Core::FromSource && own.is_file() {
            own
        } else {
            workspace::cargo()
        }
    }

    fn rustflags(&self, workspace: &Workspace) -> Result<Vec<OsString>> {
        let mut flags = vec![
            // BTF is made from debug info, and of all crates: with a part of them the verifier
            // refuses func_info.
            OsString::from("-Cdebuginfo=2"),
            joined("-Clinker=", &self.linker),
            OsString::from("-Clink-arg=--btf"),
            OsString::from(format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH)),
        ];
        // Without these the folder names get into the object. rustc takes the last that matches,
        // so the narrower ones follow.
        for (folder, name) in [
            (workspace.root(), "/flannel-ebpf"),
            (&workspace.bpf_build_dir(), "/build"),
            (&workspace::cargo_home()?, "/cargo"),
            (
                &self.toolchain.sysroot.join("lib/rustlib/src/rust"),
                "/rust",
            ),
        ] {
            let mut flag = joined("--remap-path-prefix=", folder);
            flag.push("=");
            flag.push(name);
            flags.push(flag);
        }
        Ok(flags)
    }
}

fn joined(flag: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut flag = OsString::from(flag);
    flag.push(value);
    flag
}

/// The form that keeps spaces in paths whole: flags parted by the unit separator.
fn encode(flags: &[OsString]) -> OsString {
    flags.join(OsStr::new("\x1f"))
}

fn find_linker(workspace: &Workspace) -> Result<PathBuf> {
    let ours = workspace.tool("bpf-linker");
    if ours.is_file() {
        return Ok(ours);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|dir| dir.join("bpf-linker"))
        .find(|file| file.is_file())
        .with_context(|| {
            format!(
                "no bpf-linker in {} or PATH: run `cargo xtask setup`",
                ours.display()
            )
        })
}

/// An llvm-strip of the compiler's LLVM: an older one may not know what a newer compiler writes.
fn find_strip(wanted: LlvmVersion) -> Result<PathBuf> {
    let places = [
        format!("/usr/lib/llvm-{}/bin/llvm-strip", wanted.major),
        format!("llvm-strip-{}", wanted.major),
        "llvm-strip".to_owned(),
    ];
    for place in &places {
        let Ok(text) = process::read(Command::new(place).arg("--version")) else {
            continue;
        };
        if llvm::of_llvm_tool(&text).is_some_and(|found| found.major >= wanted.major) {
            return Ok(PathBuf::from(place));
        }
    }
    bail!(
        "no llvm-strip of LLVM {} or newer (tried {}): run `cargo xtask setup`, or install llvm-{}",
        wanted.major,
        places.join(", "),
        wanted.major
    )
}

/// Leaves an equal file alone, so that its time does not make cargo build the agent again.
fn write_if_changed(place: &Path, bytes: &[u8]) -> Result<bool> {
    if fs::read(place).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make folder {}", folder.display()))?;
    }
    fs::write(place, bytes).with_context(|| format!("cannot write {}", place.display()))?;
    Ok(true)
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_equal_object_is_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("bpf/object");
        assert!(write_if_changed(&place, b"one").unwrap());
        let time = fs::metadata(&place).unwrap().modified().unwrap();
        assert!(!write_if_changed(&place, b"one").unwrap());
        assert_eq!(fs::metadata(&place).unwrap().modified().unwrap(), time);
        assert!(write_if_changed(&place, b"two").unwrap());
        assert_eq!(fs::read(&place).unwrap(), b"two");
    }

    #[test]
    fn flags_keep_their_spaces() {
        let flags = [
            OsString::from("-Clinker=/a b/bpf-linker"),
            OsString::from("-Cdebuginfo=2"),
        ];
        assert_eq!(encode(&flags), "-Clinker=/a b/bpf-linker\x1f-Cdebuginfo=2");
    }

    #[test]
    fn sha256_is_printed_in_hexadecimal() {
        assert_eq!(
            sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
