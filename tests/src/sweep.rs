//! Removal of what a killed test process left behind, and the names that make it possible.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, umount2};

use crate::netns;

const PREFIX: &str = "flt";

/// A name that no other lab on this machine has: our pid and a counter.
pub fn unique_name() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{n}", std::process::id())
}

/// Where a lab keeps its files.
pub fn folder(lab: &str) -> PathBuf {
    std::env::temp_dir().join(lab)
}

/// Removes namespaces, mounts and folders of labs whose process is gone. Runs once per process.
pub fn dead_labs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for name in entries(Path::new(netns::FOLDER)).filter(|n| is_dead(n)) {
            // Somebody else may sweep at the same time: whoever comes second finds nothing.
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
        for name in entries(&std::env::temp_dir()).filter(|n| is_dead(n)) {
            remove_folder(&folder(&name));
        }
    });
}

/// Unmounts every bpffs below `folder` and removes it.
pub fn remove_folder(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for mount in mounts.lines().filter_map(|l| l.split(' ').nth(1)) {
        if Path::new(mount).starts_with(folder) {
            let _ = umount2(mount, MntFlags::MNT_DETACH);
        }
    }
    let _ = fs::remove_dir_all(folder);
}

fn entries(folder: &Path) -> impl Iterator<Item = String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
}

/// Whether `name` is of a lab and its process has ended.
pub fn is_dead(name: &str) -> bool {
    let pid = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split('-').next())
        .and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labs_of_ended_processes_are_swept() {
        assert!(!is_dead(&unique_name()));
        assert!(!is_dead("cni-1234"));
        assert!(!is_dead("fltx-1"));
        // Beyond the kernel's largest pid (2^22).
        assert!(is_dead("flt4194305-0-switch"));
    }
}
