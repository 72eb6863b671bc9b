//! `build-ebpf`: the BPF object, built the same way everywhere.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::builder::Builder;
use crate::reproducible;
use crate::workspace::Workspace;

#[derive(Debug, Default, Args)]
pub(crate) struct BuildEbpf {
    /// Compiler to use instead of the first that fits (Debian's, nightly, the active one)
    #[arg(long, env = "FLANNEL_BPF_RUSTC", value_name = "PATH")]
    rustc: Option<PathBuf>,
    /// bpf-linker to use instead of .cache/tools/bin/bpf-linker or the one in PATH
    #[arg(long, env = "FLANNEL_BPF_LINKER", value_name = "PATH")]
    linker: Option<PathBuf>,
    /// Also build a copy of the tree in another folder and compare the bytes
    #[arg(long)]
    check_reproducible: bool,
}

impl BuildEbpf {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<()> {
        let builder = Builder::find(workspace, self.rustc.as_deref(), self.linker.as_deref())?;
        let object = builder.build(workspace)?;
        if self.check_reproducible {
            reproducible::check(workspace, &builder, &object)?;
        }
        Ok(())
    }
}
