//! `cargo xtask`: everything that builds, tests and shows flannel-ebpf, one file per verb.

mod build_ebpf;
mod llvm;
mod process;
mod reproducible;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about,
    disable_help_subcommand = true
)]
struct Xtask {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Compile the BPF programs into target/bpf/flannel-ebpf
    BuildEbpf(build_ebpf::BuildEbpf),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not `fn main() -> Result`: its output is for developers of xtask, with a backtrace.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let workspace = Workspace::locate()?;
    match Xtask::parse().verb {
        Verb::BuildEbpf(verb) => verb.run(&workspace),
    }
}
