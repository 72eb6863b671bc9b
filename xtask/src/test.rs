//! `test`: unit, packet and end-to-end tests, after the set-up they need.

use std::ffi::OsString;
use std::num::NonZero;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build_cni::BuildCni;
use crate::build_ebpf::BuildEbpf;
use crate::cluster;
use crate::controls::Controls;
use crate::kernels;
use crate::outcomes::{Failed, Outcomes};
use crate::process;
use crate::setup::{self, Setup};
use crate::stalls::Stalls;
use crate::workspace::Workspace;

/// libtest's.
const THREADS: &str = "RUST_TEST_THREADS";

#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Not on this machine's kernel but on Debian's of this series, in a virtual machine: 6.1, 6.12, newest, or all
    #[arg(long, value_name = "SERIES")]
    kernel: Vec<String>,
    /// With --kernel: a choice of the tests that takes a few minutes
    #[arg(long, requires = "kernel")]
    brief: bool,
    /// Nothing of that, but scenarios in a real Kubernetes cluster of two nodes (Debian 12; its first set-up takes a quarter of
    /// an hour); ARGS are the names of some
    #[arg(long, conflicts_with = "kernel")]
    cluster: bool,
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
        if self.cluster {
            return cluster::run(workspace, "test", &self.passed_on);
        }
        Setup::default().run(workspace)?;
        BuildEbpf::default().run(workspace)?;
        build_next_layout(workspace)?;
        build_agent(workspace)?;
        if !self.kernel.is_empty() {
            setup::virtual_machines()?;
            return kernels::test(
                workspace,
                &kernels::Wish {
                    kernels: &self.kernel,
                    brief: self.brief,
                    passed_on: &self.passed_on,
                },
            );
        }
        BuildCni::default().run(workspace)?;
        println!("test: unit, packet and end-to-end tests");
        let mut controls = Controls::default();
        let mut outcomes = Outcomes::new(Instant::now());
        let stalls = Stalls::watch();
        let mut command = workspace.cargo();
        command
            .env(THREADS, threads())
            .args(["test", "--locked", "--no-fail-fast"])
            .args(&self.passed_on);
        let mut tested = process::run_reading(command, |line| {
            controls.read(line);
            outcomes.read(line, Instant::now());
        });
        println!("test: {controls}");
        let failed = outcomes.failed();
        failed.iter().for_each(|failed| print!("{failed}"));
        // With arguments of the caller's own it would be another run.
        let may_repeat = self.passed_on.is_empty() && outcomes.is_complete();
        if tested.is_err() && !failed.is_empty() && may_repeat {
            let stood =
                |failed: &Failed| Some((failed.file.clone()?, stalls.longest(failed.span)?));
            let stood: Option<Vec<_>> = failed.iter().map(stood).collect();
            if let Some(stood) = stood {
                tested = failed
                    .iter()
                    .zip(stood)
                    .try_for_each(|(failed, (file, long))| again(workspace, failed, &file, long));
            }
        }
        tested
    }
}

/// How many tests of a program run at once, unless who calls has said so: they wait more than they compute, and with one for
/// each core the cores are idle for four fifths of the time.
fn threads() -> OsString {
    env::var_os(THREADS).unwrap_or_else(|| {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        (3 * cores).to_string().into()
    })
}

/// Runs once more what failed while the machine stood still for `long`: its clocks went on, and deadlines of protocols passed
/// that no test set. Who failed on a machine that went on, has failed.
fn again(workspace: &Workspace, failed: &Failed, file: &str, long: Duration) -> Result<()> {
    println!(
        "test: the machine stood still for {:.1} s while {file} ran; once more: {}",
        long.as_secs_f32(),
        failed.tests.join(" ")
    );
    let mut command = workspace.cargo();
    command
        .args(["test", "--locked", "--package", "flannel-tests"])
        .args(["--test", file, "--", "--exact"])
        .args(&failed.tests);
    let all = format!("test result: ok. {} passed;", failed.tests.len());
    let mut ran = false;
    process::run_reading(command, |line| ran |= line.starts_with(&all))?;
    if !ran {
        bail!("not all of {} ran once more", failed.tests.join(" "));
    }
    println!(
        "test: passed only the second time: {}",
        failed.tests.join(" ")
    );
    Ok(())
}

/// The other of the two builds that upgrades are tested with; only our own crates are compiled twice.
fn build_next_layout(workspace: &Workspace) -> Result<()> {
    process::run(build(workspace).args(["--features", "next-layout"]))?;
    let built = workspace.root().join("target/debug/flannel-agent");
    let kept = workspace
        .root()
        .join("target/debug/flannel-agent-next-layout");
    // A new file: the old one may be running, and a hard link would change with the next build.
    let _ = fs::remove_file(&kept);
    fs::copy(&built, &kept)
        .with_context(|| format!("cannot copy {} to {}", built.display(), kept.display()))?;
    Ok(())
}

/// The agent that the end-to-end tests, the demo and the bench start as a program of its own.
pub(crate) fn build_agent(workspace: &Workspace) -> Result<()> {
    process::run(&mut build(workspace))
}

fn build(workspace: &Workspace) -> Command {
    let mut command = workspace.cargo();
    command.args(["build", "--locked", "--package", "flannel-agent"]);
    command
}
