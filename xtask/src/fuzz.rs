//! `fuzz`: lets libFuzzer look for bytes that break a parser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::build_ebpf::BuildEbpf;
use crate::process;
use crate::setup::Setup;
use crate::workspace::Workspace;

#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// Only this target [default: all; a wrong name lists them]
    target: Option<String>,
    /// For how long, per target
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    seconds: u32,
}

impl Fuzz {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<()> {
        Setup::default().run(workspace)?;
        BuildEbpf::default().run(workspace)?;
        let corpora = workspace.root().join("tests/fuzz/corpus");
        let targets = self.targets(&corpora)?;
        let engine = build(workspace)?;
        for target in targets {
            println!("fuzz: {target} for {} s", self.seconds);
            self.one(workspace, &engine, &corpora, &target)?;
        }
        Ok(())
    }

    /// The corpus has a folder for each target; a test sees to that.
    fn targets(&self, corpora: &Path) -> Result<Vec<String>> {
        let mut all: Vec<String> = fs::read_dir(corpora)
            .with_context(|| format!("cannot read {}", corpora.display()))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        all.sort();
        match &self.target {
            None => Ok(all),
            Some(one) if all.contains(one) => Ok(vec![one.clone()]),
            Some(other) => bail!(
                "{other:?} is no fuzz target: give one of {}",
                all.join(", ")
            ),
        }
    }

    fn one(
        &self,
        workspace: &Workspace,
        engine: &Path,
        corpora: &Path,
        target: &str,
    ) -> Result<()> {
        // What it learns goes here, and not among the seeds, which people chose.
        let learnt = workspace.root().join("target/fuzz/corpus").join(target);
        let found = workspace.root().join("target/fuzz/found").join(target);
        for folder in [&learnt, &found] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        process::run(
            Command::new(engine)
                .env("FLANNEL_FUZZ_TARGET", target)
                .args([&learnt, &corpora.join(target)])
                .arg(format!("-max_total_time={}", self.seconds))
                .arg(format!("-artifact_prefix={}/", found.display()))
                .args(["-print_final_stats=1", "-verbosity=0", "-timeout=10"]),
        )
        .with_context(|| {
            format!(
                "{target} fails; what breaks it is in {}: copy it to tests/fuzz/corpus/{target}",
                found.display()
            )
        })
    }
}

/// With the dependencies of every other build: only our own crates are compiled again.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    println!("fuzz: building the targets with coverage");
    process::run(
        workspace
            .cargo()
            .args(["build", "--locked", "--package", "flannel-fuzz"])
            .args(["--features", "engine"])
            .env(
                "RUSTC_WORKSPACE_WRAPPER",
                workspace.root().join("tests/fuzz/instrument"),
            ),
    )?;
    Ok(workspace.root().join("target/debug/flannel-fuzz"))
}
