//! Fuzz targets: each reads bytes as a parser of ours does, and fails on a panic or a broken promise.
//!
//! `cargo test` reads the corpus, and mutations of it, through every target. `cargo xtask fuzz` lets libFuzzer look
//! for more; what it finds belongs into `corpus/<target>/`, where it stays a test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a target fails by panicking"
)]

mod bytes;
pub mod mutate;
mod targets;

use std::path::{Path, PathBuf};

pub use targets::TARGETS;

/// A parser under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Panics if the parser does, or if what it made of the bytes is wrong.
    pub check: fn(&[u8]),
}

impl Target {
    /// The target of that name.
    pub fn named(name: &str) -> Option<Self> {
        TARGETS.into_iter().find(|target| target.name == name)
    }

    /// Inputs worth beginning with.
    pub fn corpus(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(self.name)
    }

    /// # Panics
    /// If the corpus cannot be read: a target without seeds tests nothing.
    pub fn seeds(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut seeds: Vec<_> = std::fs::read_dir(self.corpus())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.clone(), std::fs::read(path).unwrap()))
            .collect();
        seeds.sort();
        seeds
    }
}
