//! A kernel without tcx (before 6.6), as far as one process can tell: its bpf(2) refuses tcx links, as such a kernel does.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::netns::run;
use crate::node::Node;

/// The first that has it.
const SINCE: (u32, u32) = (6, 6);
/// In the guests of other kernels, which have no compiler.
const BUILT: &str = "../target/no_tcx.so";

/// A wrapper for the agent: see [`crate::agent::Agent::start_under`]. Where the kernel has no tcx it changes nothing.
///
/// # Panics
/// Without a C compiler, where none was built beforehand.
#[track_caller]
pub fn wrapper(node: &Node) -> String {
    if running() < SINCE {
        return "env".to_owned();
    }
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join(BUILT);
    let library = match built.is_file() {
        true => built,
        false => compiled(node),
    };
    format!("env LD_PRELOAD={}", library.display())
}

fn compiled(node: &Node) -> PathBuf {
    let (source, library) = (
        node.folder().join("no_tcx.c"),
        node.folder().join("no_tcx.so"),
    );
    std::fs::write(&source, include_str!("no_tcx.c")).expect("write to the node's folder");
    run(Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl"));
    library
}

fn running() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs");
    series(&release).unwrap_or_else(|| panic!("no version of a kernel: {release}"))
}

/// `6.1` of `6.1.0-57-cloud-amd64`.
fn series(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_its_series() {
        assert_eq!(series("6.1.0-57-cloud-amd64\n"), Some((6, 1)));
        assert_eq!(series("7.3+deb14-cloud-amd64"), Some((7, 3)));
        assert_eq!(series("none"), None);
    }
}
