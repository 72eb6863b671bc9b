//! `test`: unit, packet and end-to-end tests, after the set-up they need.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::build_ebpf::BuildEbpf;
use crate::process;
use crate::setup::{self, Setup};
use crate::workspace::{self, Workspace};

#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Passed on to `cargo test`: a part of a test's name, `--test FILE`, or `-- --nocapture`
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    passed_on: Vec<OsString>,
}

impl Test {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<()> {
        // Before anything takes minutes. A test that needs root must not pass by not running.
        setup::require_root("cargo xtask test")?;
        Setup::default().run(workspace)?;
        BuildEbpf::default().run(workspace)?;
        build_agent(workspace)?;
        println!("test: unit, packet and end-to-end tests");
        process::run(
            Command::new(workspace::cargo())
                .current_dir(workspace.root())
                .args(["test", "--locked", "--no-fail-fast"])
                .args(&self.passed_on),
        )
    }
}

/// The agent that the end-to-end tests, the demo and the bench start as a program of its own.
pub(crate) fn build_agent(workspace: &Workspace) -> Result<()> {
    process::run(
        Command::new(workspace::cargo())
            .current_dir(workspace.root())
            .args(["build", "--locked", "--package", "flannel-agent"]),
    )
}
