//! `test`: unit, packet and end-to-end tests, after the set-up they need.

use std::ffi::OsString;
use std::fs;
use std::num::NonZeroU8;
use std::process::Command;
use std::time::{Duration, Instant};

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
use crate::side_by_side::{self, THREADS};
use crate::stalls::Stalls;
use crate::workspace::Workspace;

/// So many tests may fail without a reason that is seen, and pass alone. More have one.
const MAY_BE_UNSTEADY: usize = 3;
/// And so many while the machine stood still.
const MAY_HAVE_STOOD: usize = 10;

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
    /// Nothing of that, but Kubernetes' own end-to-end network tests in such a cluster; ARGS are parts of the names of some
    #[arg(long, conflicts_with_all = ["kernel", "cluster"])]
    sig_network: bool,
    /// With --sig-network: on flannel, as a control
    #[arg(long, requires = "sig_network")]
    flannel: bool,
    /// With --sig-network: kube-proxy's mode
    #[arg(long, requires = "sig_network", value_name = "MODE", default_value = "iptables", value_parser = ["iptables", "nftables"])]
    proxy: String,
    /// With --sig-network: the tests of NetworkPolicy, with kube-router, and no others
    #[arg(long, requires = "sig_network")]
    netpol: bool,
    /// With --sig-network: how many tests run at once [default: 3; of NetworkPolicy 1]
    #[arg(long, requires = "sig_network", value_name = "NUMBER")]
    procs: Option<NonZeroU8>,
    /// Passed on to `cargo test`: a part of a test's name, `--test FILE`, or `-- --nocapture`
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGS"
    )]
    passed_on: Vec<OsString>,
}

impl Test {
    /// As the example `cluster` reads it: daemon, mode of kube-proxy, which tests, how many at once, parts of names.
    fn of_sig_network(&self) -> Vec<OsString> {
        let (tests, at_once) = match self.netpol {
            true => ("netpol", 1),
            false => ("net", 3),
        };
        let at_once = self.procs.map_or(at_once, NonZeroU8::get).to_string();
        let daemon = if self.flannel { "flannel" } else { "ours" };
        let words = [daemon, &self.proxy, tests, &at_once].map(OsString::from);
        words.into_iter().chain(self.passed_on.clone()).collect()
    }

    pub(crate) fn run(&self, workspace: &Workspace) -> Result<()> {
        // Before anything takes minutes. A test that needs root must not pass by not running.
        setup::require_root("cargo xtask test")?;
        if self.cluster {
            return cluster::run(workspace, "test", &self.passed_on);
        }
        if self.sig_network {
            return cluster::run(workspace, cluster::SIG_NETWORK, &self.of_sig_network());
        }
        let build = || {
            BuildEbpf::default().run(workspace)?;
            build_next_layout(workspace)?;
            build_agent(workspace)
        };
        if !self.kernel.is_empty() {
            Setup::default().run(workspace)?;
            build()?;
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
        let programs = Setup::run_beside(workspace, || {
            build()?;
            BuildCni::default().run(workspace)?;
            // A choice is cargo's, also of what is built.
            match self.passed_on.is_empty() {
                true => side_by_side::build(workspace),
                false => Ok(Vec::new()),
            }
        })?;
        println!("test: unit, packet and end-to-end tests");
        let mut controls = Controls::default();
        let mut outcomes = Outcomes::new(Instant::now());
        let stalls = Stalls::watch();
        let read = |line: &str, when| {
            controls.read(line);
            outcomes.read(line, when);
        };
        if !self.passed_on.is_empty() {
            let tested = chosen(workspace, &self.passed_on, read);
            println!("test: {controls}");
            outcomes
                .failed()
                .iter()
                .for_each(|failed| print!("{failed}"));
            return tested;
        }
        let programs = side_by_side::run(workspace, programs, read);
        println!("test: {controls}");
        let failed = outcomes.failed();
        failed.iter().for_each(|failed| print!("{failed}"));
        let programs = programs?;
        if programs.is_empty() {
            return Ok(());
        }
        // What crashed, or is not known by its name, cannot be repeated.
        if !outcomes.is_complete() || programs.len() != failed.len() {
            bail!("{} failed", programs.join(", "));
        }
        repeat(workspace, failed, &stalls)
    }
}

/// The caller's choice, by `cargo test` itself.
fn chosen(
    workspace: &Workspace,
    arguments: &[OsString],
    mut read: impl FnMut(&str, Instant),
) -> Result<()> {
    let mut command = workspace.cargo();
    command
        .args(["test", "--locked", "--no-fail-fast"])
        .args(arguments);
    process::run_reading(command, |line| read(line, Instant::now()))
}

/// Runs once more what failed, if that may say something: not if too much failed, or unit tests.
fn repeat(workspace: &Workspace, failed: &[Failed], stalls: &Stalls) -> Result<()> {
    let stood: Vec<_> = failed.iter().map(|f| stalls.longest(f.span)).collect();
    let count = |failed: &Failed| failed.tests.len();
    let unexplained = failed.iter().zip(&stood);
    let unexplained = unexplained.filter(|(_, stood)| stood.is_none());
    let unexplained: usize = unexplained.map(|(failed, _)| count(failed)).sum();
    let all: usize = failed.iter().map(count).sum();
    let files: Option<Vec<_>> = failed.iter().map(|f| f.file.as_deref()).collect();
    let files = files.filter(|_| unexplained <= MAY_BE_UNSTEADY && all <= MAY_HAVE_STOOD);
    let Some(files) = files else {
        bail!("{all} tests failed");
    };
    let mut unsteady = Vec::new();
    for ((failed, file), stood) in failed.iter().zip(files).zip(stood) {
        again(workspace, failed, file, stood)?;
        unsteady.push(format!("{} of {file}", failed.tests.join(" ")));
    }
    println!(
        "test: UNSTEADY, passed only the second time: {}",
        unsteady.join(", ")
    );
    Ok(())
}

/// Runs a program's failed tests once more, one by one and with nothing beside them. Two things make a sound test fail: the
/// machine stood still for `stood`, its clocks went on, and deadlines of protocols passed that no test set; or many
/// tests at once starved it. The result says so: an unsteady test is a thing to mend.
fn again(
    workspace: &Workspace,
    failed: &Failed,
    file: &str,
    stood: Option<Duration>,
) -> Result<()> {
    let tests = failed.tests.join(" ");
    match stood {
        Some(long) => println!(
            "test: the machine stood still for {:.1} s while {file} ran; once more: {tests}",
            long.as_secs_f32()
        ),
        None => println!("test: few failed; once more, alone: {tests} of {file}"),
    }
    let mut command = workspace.cargo();
    command
        .env(THREADS, "1")
        .args(["test", "--locked", "--package", "flannel-tests"])
        .args(["--test", file, "--", "--exact"])
        .args(&failed.tests);
    let all = format!("test result: ok. {} passed;", failed.tests.len());
    let mut ran = false;
    process::run_reading(command, |line| ran |= line.starts_with(&all))?;
    if !ran {
        bail!("not all of {tests} ran once more");
    }
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
