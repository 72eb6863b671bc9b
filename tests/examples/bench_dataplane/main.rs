//! `cargo xtask bench dataplane`: traffic between two pods on two nodes, through each dataplane in turn.
//!
//! Only ratios mean something: the "wire" is a veth pair, and both nodes share the machine's cores.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "as in the tests' library: what fails here is to fail loudly"
)]

mod clock;
mod document;
mod failure;
#[cfg(test)]
mod fixture;
mod goals;
mod job;
mod live;
mod machine;
mod mode;
mod options;
mod outside;
mod page;
mod plan;
mod plot;
mod programs;
mod progress;
mod remote;
mod rounds;
mod run;
mod sample;
mod stats;
mod table;
mod topology;
mod words;
mod worker;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use flannel_tests::supervise;

use document::Document;
use options::{Options, Part};

fn main() -> ExitCode {
    // Before the child is started, so that a wrong flag is reported once.
    let options = Options::parse();
    if let Some(Part::Worker { role }) = options.part {
        worker::run(role);
        return ExitCode::SUCCESS;
    }
    if !options.from.is_empty() {
        return told(Document::read_all(&options.from).and_then(|it| finish(&options, &it)));
    }
    supervise::run(|| told(measure(&options)))
}

fn told(outcome: Result<ExitCode, String>) -> ExitCode {
    outcome.unwrap_or_else(|why| {
        eprintln!("{why}");
        ExitCode::FAILURE
    })
}

fn measure(options: &Options) -> Result<ExitCode, String> {
    let (steps, mut modes) = match options.part {
        Some(_) => (run::programs_only(options), options.modes()),
        None => (run::steps(options)?, options.modes()),
    };
    if options.part.is_some() {
        modes.retain(|mode| mode.flags().is_some());
    }
    let document = run::all(options, &steps, &modes);
    println!("\n{:.0} s", document.seconds);
    let out = options.out();
    document.write(&out)?;
    println!("written to {}", out.display());
    if let Some(svg) = draw(&document)? {
        write(&out.with_extension("svg"), &svg)?;
    }
    finish(options, &document)
}

/// What is said and written of results, however old.
fn finish(options: &Options, document: &Document) -> Result<ExitCode, String> {
    print!("{}", table::outcome(document));
    if options.write_docs {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let svg = draw(document)?.ok_or("nothing for a picture was measured")?;
        write(&docs.join("bench.svg"), &svg)?;
        write(&docs.join("bench.md"), &page::text(document))?;
        println!("docs/bench.md and docs/bench.svg are written");
    }
    let missed = goals::missed(&document.series).0 > 0 && options.enforce;
    if missed || !document.failed().is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn draw(document: &Document) -> Result<Option<String>, String> {
    plot::svg(&document.series).map_err(|e| format!("draw the picture: {e}"))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("write {}: {e}", path.display()))
}
