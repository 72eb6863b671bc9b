//! `demo`: the main job, shown on this machine.

use anyhow::Result;
use clap::Args;

use crate::build_ebpf::BuildEbpf;
use crate::cluster;
use crate::process;
use crate::setup::{self, Setup};
use crate::test::build_agent;
use crate::workspace::Workspace;

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Instead of an etcd and two agents: a whole Kubernetes with the shipped image, manifest and CNI plugin (Debian 12; its
    /// first set-up takes a quarter of an hour)
    #[arg(long)]
    kubernetes: bool,
}

impl Demo {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<()> {
        setup::require_root("cargo xtask demo")?;
        if self.kubernetes {
            return cluster::run(workspace, "demo", &[]);
        }
        Setup::default().run(workspace)?;
        BuildEbpf::default().run(workspace)?;
        build_agent(workspace)?;
        process::run(
            workspace
                .cargo()
                .args(["run", "--quiet", "--locked"])
                .args(["--package", "flannel-tests", "--example", "demo"]),
        )
    }
}
