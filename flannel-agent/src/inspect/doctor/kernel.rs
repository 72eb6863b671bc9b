//! Rights, and what the kernel can do: by trying, never by its version.

use std::path::Path;

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Patient, Report};
use crate::dataplane::probe;

pub(super) fn check(patient: &Patient<'_>, report: &mut Report) {
    if let Ok(name) = nix::sys::utsname::uname() {
        report.ok(format!(
            "kernel {} on {}",
            name.release().display(),
            name.machine().display()
        ));
    }
    let allowed = match probe::capabilities() {
        Ok(()) => {
            report.ok("capabilities: NET_ADMIN, NET_RAW, BPF");
            true
        }
        Err(error) => {
            report.failure(error.to_string(), "run it as root, as the agent is run");
            false
        }
    };
    // Without rights every probe fails, and would say nothing about the kernel.
    if allowed {
        match probe::programs() {
            Ok(count) => report.ok(format!("the verifier takes all {count} programs")),
            Err(error) => report.failure(
                error.to_string(),
                "boot a kernel that has it (6.6 or newer has all)",
            ),
        }
        if probe::tcx() {
            report.ok("tcx: programs are attached by links");
        } else {
            report.ok("no tcx (kernels before 6.6): programs are attached as clsact filters");
        }
    }
    bpffs(&patient.config.bpffs, patient.pre, report);
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        report.ok("kernel types (BTF)");
    } else {
        report.warning(
            "no kernel types (BTF): the programs do without, bpftool shows less",
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y",
        );
    }
    jit(report);
}

fn bpffs(path: &Path, pre: bool, report: &mut Report) {
    let shown = path.display();
    match statfs(path) {
        Ok(stat) if stat.filesystem_type() == BPF_FS_MAGIC => {
            report.ok(format!("BPF file system on {shown}"));
        }
        Ok(_) if pre => report.warning(
            format!("no BPF file system on {shown}: the agent will mount one"),
            format!("mount -t bpf bpf {shown}; in a container, on the host"),
        ),
        Ok(_) => report.failure(
            format!("no BPF file system on {shown}: nothing can be pinned there"),
            format!("mount -t bpf bpf {shown}, then restart the agent"),
        ),
        Err(error) => report.failure(
            format!("{shown}: {error}"),
            "name the folder of the BPF file system with --bpffs",
        ),
    }
}

/// Only the initial network namespace has this file.
fn jit(report: &mut Report) {
    match std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable") {
        Ok(text) if text.trim() == "0" => report.warning(
            "the BPF compiler (JIT) is off: programs are interpreted, many times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Ok(_) => report.ok("BPF compiler (JIT)"),
        Err(_) => {}
    }
}
