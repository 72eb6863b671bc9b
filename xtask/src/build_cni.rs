//! `build-cni`: the CNI plugin as it is shipped, without a library it would have to find.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use object::elf;
use object::read::elf::{ElfFile64, ProgramHeader as _};

use crate::process;
use crate::workspace::Workspace;

const PACKAGE: &str = "flannel-cni";

#[derive(Debug, Default, Args)]
pub(crate) struct BuildCni {}

impl BuildCni {
    /// Writes target/cni/flannel.
    #[expect(clippy::unused_self, reason = "as every verb")]
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<()> {
        let target = host_triple(workspace)?;
        // It is copied to hosts with any libc, or none. With --target the flag stays away from build scripts and macros,
        // and what else is built beside it stays as it is.
        process::run(
            workspace
                .cargo()
                .args(["build", "--locked", "--release", "--package", PACKAGE])
                .args(["--target", &target])
                .env("RUSTFLAGS", "-C target-feature=+crt-static"),
        )?;
        let target_dir = workspace.root().join("target");
        let built = target_dir.join(&target).join("release/flannel");
        let shipped = workspace.cni_plugin();
        let folder = shipped.parent().context("target/cni")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        // A new file: the old one may be running.
        let _ = fs::remove_file(&shipped);
        fs::copy(&built, &shipped)
            .with_context(|| format!("cannot copy {} to {}", built.display(), shipped.display()))?;
        check_static(&shipped)?;
        println!("build-cni: wrote {}", shipped.display());
        Ok(())
    }
}

fn host_triple(workspace: &Workspace) -> Result<String> {
    let mut rustc = std::process::Command::new("rustc");
    let text = process::read(rustc.arg("-vV").current_dir(workspace.root()))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .with_context(|| format!("`rustc -vV` names no host:\n{text}"))
}

/// A program that names no interpreter is started by the kernel alone (fs/binfmt_elf.c).
fn check_static(file: &Path) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let elf = ElfFile64::<object::Endianness>::parse(&*bytes)
        .with_context(|| format!("{} is no ELF program", file.display()))?;
    let endian = elf.endian();
    let mut headers = elf.elf_program_headers().iter();
    ensure!(
        headers.all(|header| header.p_type(endian) != elf::PT_INTERP),
        "{} needs a dynamic linker: this toolchain does not link statically; add its static C library \
         (Debian: libc6-dev) and build again",
        file.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_refused() {
        let own = std::env::current_exe().unwrap();
        let error = check_static(&own).unwrap_err().to_string();
        assert!(error.contains("needs a dynamic linker"), "{error}");
    }
}
