//! `cargo xtask`: everything that builds, tests and shows flannel-ebpf, one file per verb.

mod apt;
mod archive;
mod bench;
mod build_cni;
mod build_ebpf;
mod builder;
mod check;
mod cluster;
mod controls;
mod demo;
mod docs;
mod floors;
mod fuzz;
mod image;
mod kernels;
mod llvm;
mod outcomes;
mod process;
mod reproducible;
mod setup;
mod side_by_side;
mod stalls;
mod test;
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
    /// Install what this machine lacks (Debian 12), or say what to install
    Setup(setup::Setup),
    /// Compile the BPF programs into target/bpf/flannel-ebpf
    BuildEbpf(build_ebpf::BuildEbpf),
    /// Compile the CNI plugin, static, into target/cni/flannel
    BuildCni(build_cni::BuildCni),
    /// Build and write the container image, without a container engine, into target/image/flannel-ebpf.tar
    Image(image::Image),
    /// Set up, build, and show two nodes whose pods talk (needs root; leaves nothing behind)
    Demo(demo::Demo),
    /// Set up, build, and run the unit, packet and end-to-end tests (needs root)
    Test(test::Test),
    /// Look for bytes that break a parser, for some seconds per target
    Fuzz(fuzz::Fuzz),
    /// Check format, the order of the modules, lints on host and BPF, and dependencies
    Check(check::Check),
    /// Write the pages of docs/ that are made from the code, or check them
    Docs(docs::Docs),
    /// Measure, in a release build (needs root)
    Bench(bench::Bench),
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
        Verb::Setup(verb) => verb.run(&workspace),
        Verb::BuildEbpf(verb) => verb.run(&workspace),
        Verb::BuildCni(verb) => verb.run(&workspace),
        Verb::Image(verb) => verb.run(&workspace),
        Verb::Demo(verb) => verb.run(&workspace),
        Verb::Test(verb) => verb.run(&workspace),
        Verb::Fuzz(verb) => verb.run(&workspace),
        Verb::Check(verb) => verb.run(&workspace),
        Verb::Docs(verb) => verb.run(&workspace),
        Verb::Bench(verb) => verb.run(&workspace),
    }
}
