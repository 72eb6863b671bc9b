//! `bench`: measurements against goals. Not tests: a busy machine misses them.

use std::ffi::OsString;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::build_ebpf::BuildEbpf;
use crate::kernels;
use crate::process;
use crate::setup::{self, Setup};
use crate::test::build_agent;
use crate::workspace::Workspace;

#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// 5,000 leases in etcd: time from agent start to a complete map, from one change to the map, memory
    ControlPlane(PassedOn),
    /// Traffic between pods through each dataplane: bare, kernel vxlan, host-gw, and ours in each mode
    Dataplane(PassedOn),
    /// Traffic between two virtio cards in a virtual machine, by instructions: native XDP and GRO on drivers with rings
    Virtio(Virtio),
}

#[derive(Debug, Args)]
struct Virtio {
    /// Debian's kernel of this series
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: String,
    /// Write docs/virtio.md
    #[arg(long)]
    write_docs: bool,
}

#[derive(Debug, Args)]
struct PassedOn {
    /// Passed on to the bench: `--enforce` to fail when a goal is missed, `--help` for the rest
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    args: Vec<OsString>,
}

impl Bench {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<()> {
        setup::require_root("cargo xtask bench")?;
        Setup::default().run(workspace)?;
        BuildEbpf::default().run(workspace)?;
        match &self.what {
            What::ControlPlane(PassedOn { args }) => {
                run_example(workspace, "bench_control_plane", args)
            }
            What::Dataplane(PassedOn { args }) => run_example(workspace, "bench_dataplane", args),
            What::Virtio(wish) => {
                build_agent(workspace)?;
                setup::virtual_machines()?;
                kernels::bench_virtio(workspace, &wish.kernel, wish.write_docs)
            }
        }
    }
}

/// Agent and bench as they would be shipped.
fn run_example(workspace: &Workspace, example: &str, args: &[OsString]) -> Result<()> {
    process::run(workspace.cargo().args([
        "build",
        "--locked",
        "--release",
        "--package",
        "flannel-agent",
    ]))?;
    process::run(
        workspace
            .cargo()
            .args([
                "run",
                "--quiet",
                "--locked",
                "--release",
                "--package",
                "flannel-tests",
            ])
            .args(["--example", example, "--"])
            .args(args),
    )
}
