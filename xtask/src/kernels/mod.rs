//! `test --kernel`: the packet tests and scenarios on kernels that this machine does not run, in virtual machines.
//!
//! Debian's cloud kernel boots with a root of Debian packages as its initramfs; the test programs, built
//! here, are on a disk. What they print comes back over a serial line and is reported as one test run.

mod disk;
mod kernel;
mod machine;
mod plan;
mod report;
mod root;
mod virtio;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};

use self::kernel::Kernel;
use self::machine::{Hardware, Machine, Parts};
use self::report::{Next, Report};
pub(crate) use self::virtio::bench as bench_virtio;
use crate::workspace::Workspace;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Wish<'a> {
    /// `6.1`, …, `newest` or `all`.
    pub(crate) kernels: &'a [String],
    pub(crate) brief: bool,
    pub(crate) passed_on: &'a [OsString],
}

/// Runs the tests on every kernel that is wished for; the agent has been built.
pub(crate) fn test(workspace: &Workspace, wish: &Wish<'_>) -> Result<()> {
    let cache = workspace.root().join(".cache/kernels");
    let logs = workspace.root().join("target/kernels");
    for folder in [&cache, &logs] {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let root = root::get(&cache)?;
    let mut failures = Vec::new();
    for name in names(wish.kernels) {
        let kernel = Kernel::get(&name, &cache)?;
        if let Err(error) = test_on(&kernel, &root, &logs, workspace, wish) {
            // The other kernels' results are worth having all the same.
            eprintln!("kernel {name}: {error:#}");
            failures.push(name);
        }
    }
    anyhow::ensure!(
        failures.is_empty(),
        "tests failed on kernel {}",
        failures.join(", ")
    );
    Ok(())
}

fn test_on(
    kernel: &Kernel,
    root: &Path,
    logs: &Path,
    workspace: &Workspace,
    wish: &Wish<'_>,
) -> Result<()> {
    let runs = plan::of(&kernel.name, wish.brief, wish.passed_on, workspace)?;
    let built = disk::build(workspace, &runs)?;
    let (disk, initrd) = (logs.join("disk.img"), logs.join("initrd"));
    disk::write(workspace, &built, &runs, disk::PROGRAMS, &disk)?;
    join(&[root, &kernel.modules], &initrd)?;
    let begun = Instant::now();
    let machine = Machine::boot(&Parts {
        hardware: Hardware::Tests,
        kernel,
        initrd: &initrd,
        disk: &disk,
        workspace: workspace.root(),
        logs,
    })?;
    println!(
        "kernel {}: booted after {:.1} s",
        kernel.name,
        begun.elapsed().as_secs_f32()
    );
    let mut report = Report::new(&kernel.name);
    while report.line(&machine.line()?, &mut |line| println!("{line}")) == Next::Continue {}
    println!("\n{}\n", report.closing_line(begun.elapsed()));
    report.verdict()
}

fn names(wished: &[String]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for wish in wished {
        match wish.as_str() {
            "all" => names.extend(plan::ALL.iter().map(|&name| name.to_owned())),
            name => names.push(name.to_owned()),
        }
    }
    names
}

/// Archives of an initramfs may follow one another.
fn join(parts: &[&Path], to: &Path) -> Result<()> {
    let mut whole = File::create(to).with_context(|| format!("create {}", to.display()))?;
    for part in parts {
        let mut file = File::open(part).with_context(|| format!("open {}", part.display()))?;
        io::copy(&mut file, &mut whole).with_context(|| format!("write {}", to.display()))?;
    }
    Ok(())
}
