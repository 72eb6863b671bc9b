//! Rights, and what the kernel can do: by trying, never by its version.

use std::path::Path;

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Patient, Report};
use crate::base::options::Xdp;
use crate::dataplane::probe::{self, Tried};
use crate::dataplane::view::View;
use crate::dataplane::{DataplaneError, JIT, OLDEST_KERNEL, WITHOUT_SYS_ADMIN, lacks_sys_admin};

pub(super) fn check(patient: &Patient<'_>, report: &mut Report) {
    if let Ok(name) = nix::sys::utsname::uname() {
        report.ok(format!(
            "kernel {} on {}",
            name.release().display(),
            name.machine().display()
        ));
    }
    let rights = probe::capabilities();
    let allowed = rights.is_ok();
    capabilities(rights, report);
    let agents = patient.view.as_ref().map(View::agents).unwrap_or_default();
    for agent in agents {
        if lacks_sys_admin(&agent.to_string()) {
            without_sys_admin(agent, report);
        }
    }
    // Without rights every probe fails, and would say nothing about the kernel.
    if allowed {
        let tried = probe::programs(patient.config.ebpf_object.as_deref());
        programs(tried, patient.config.fast_path.xdp, report);
        hooks(probe::tcx(), report);
    }
    let path = &patient.config.bpffs;
    let is_bpffs = statfs(path).map(|stat| stat.filesystem_type() == BPF_FS_MAGIC);
    bpffs(path, is_bpffs, patient.pre, report);
    btf(Path::new("/sys/kernel/btf/vmlinux"), report);
    jit(Path::new(JIT), report);
    realtime(Path::new("/sys/kernel/realtime"), report);
}

/// Programs keep what they know of a packet in memory of the CPU, which is one program's at a time where softirqs are off. With
/// PREEMPT_RT they can be preempted (from 6.18 on unless `PREEMPT_RT_NEEDS_BH_LOCK` is set).
fn realtime(path: &Path, report: &mut Report) {
    if std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1") {
        report.warning(
            "the kernel is a real-time one (PREEMPT_RT): from 6.18 on a program may be interrupted by another on its CPU, and \
             packets be translated wrongly",
            "use a kernel without PREEMPT_RT, or one with CONFIG_PREEMPT_RT_NEEDS_BH_LOCK",
        );
    }
}

fn capabilities(rights: Result<(), DataplaneError>, report: &mut Report) {
    match rights {
        Ok(()) => report.ok("capabilities: NET_ADMIN, NET_RAW, BPF, PERFMON"),
        Err(error) => report.failure(error.to_string(), "run it as root, as the agent is run"),
    }
}

/// The agent's rights, which are not those of whoever asks.
fn without_sys_admin(agent: u32, report: &mut Report) {
    report.warning(
        format!("the agent (pid {agent}) lacks CAP_SYS_ADMIN: {WITHOUT_SYS_ADMIN}"),
        "add it to CapabilityBoundingSet= of the unit, or to the container's capabilities, as those that are shipped have it",
    );
}

/// XDP is an option, and the agent does without: on a kernel that is too old for it nothing is wrong.
fn programs(tried: Result<Tried, DataplaneError>, xdp: Xdp, report: &mut Report) {
    let tried = match tried {
        Ok(tried) => tried,
        Err(error @ (DataplaneError::ReadObject { .. } | DataplaneError::Object(_))) => {
            return report.failure(
                error.to_string(),
                "name an object of this release with --ebpf-object, or leave the flag out",
            );
        }
        Err(error) => {
            return report.failure(
                error.to_string(),
                format!("boot a kernel that has it ({OLDEST_KERNEL} or newer)"),
            );
        }
    };
    match (tried.no_xdp, xdp) {
        (None, _) => report.ok(format!("the verifier takes all {} programs", tried.taken)),
        (Some(why), Xdp::Off) => report.ok(format!(
            "the verifier takes all {} programs but those for --xdp, which is off ({why})",
            tried.taken
        )),
        (Some(why), Xdp::Auto | Xdp::On) => report.warning(
            format!("--xdp has no effect here: {why}"),
            "boot a kernel that has it (5.18 or newer), or leave --xdp off",
        ),
    }
}

fn hooks(tcx: bool, report: &mut Report) {
    report.ok(match tcx {
        true => "tcx: programs are attached by links",
        false => "no tcx (kernels before 6.6): programs are attached as clsact filters",
    });
}

fn bpffs(path: &Path, is_bpffs: nix::Result<bool>, pre: bool, report: &mut Report) {
    let shown = path.display();
    match is_bpffs {
        Ok(true) => report.ok(format!("BPF file system on {shown}")),
        Ok(false) if pre => report.warning(
            format!("no BPF file system on {shown}: the agent will mount one"),
            format!("mount -t bpf bpf {shown}; in a container, on the host"),
        ),
        Ok(false) => report.failure(
            format!("no BPF file system on {shown}: nothing can be pinned there"),
            format!("mount -t bpf bpf {shown}, then restart the agent"),
        ),
        Err(error) => report.failure(
            format!("{shown}: {error}"),
            "name the folder of the BPF file system with --bpffs",
        ),
    }
}

fn btf(file: &Path, report: &mut Report) {
    if file.exists() {
        report.ok("kernel types (BTF)");
    } else {
        report.warning(
            "no kernel types (BTF): the programs do without, bpftool shows less",
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y",
        );
    }
}

/// Only the initial network namespace has this file.
fn jit(file: &Path, report: &mut Report) {
    match std::fs::read_to_string(file) {
        Ok(text) if text.trim() == "0" => report.failure(
            "the BPF compiler (JIT) is off: the kernel loads no program of ours",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Ok(_) => report.ok("BPF compiler (JIT)"),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::inspect::doctor::tests::{Said, bad, fine, odd, said};

    fn file(contents: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, contents).unwrap();
        file
    }

    #[test]
    fn a_real_time_kernel_is_named() {
        let [rt, other] = ["1\n", "0\n"].map(file);
        let said = |path: &Path| said(|report| realtime(path, report));
        assert!(
            said(rt.path())
                .iter()
                .any(|line| format!("{line:?}").contains("PREEMPT_RT"))
        );
        assert_eq!(said(other.path()), []);
        assert_eq!(said(Path::new("/nowhere/realtime")), []);
    }

    #[test]
    fn kernel_types() {
        let there = file("");
        let said = |path: &Path| said(|report| btf(path, report));
        assert_eq!(said(there.path()), fine("kernel types (BTF)"));
        assert_eq!(
            said(Path::new("/nowhere/vmlinux")),
            odd(
                "no kernel types (BTF): the programs do without, bpftool shows less",
                "boot a kernel with CONFIG_DEBUG_INFO_BTF=y"
            )
        );
    }

    #[test]
    fn the_compiler_is_on_with_or_without_hardening_and_unknown_in_another_namespace() {
        let said = |path: &Path| said(|report| jit(path, report));
        for on in ["1\n", "2\n"] {
            assert_eq!(said(file(on).path()), fine("BPF compiler (JIT)"));
        }
        assert_eq!(
            said(file("0\n").path()),
            bad(
                "the BPF compiler (JIT) is off: the kernel loads no program of ours",
                "sysctl -w net.core.bpf_jit_enable=1"
            )
        );
        assert_eq!(said(Path::new("/nowhere/bpf_jit_enable")), Said::new());
    }

    #[test]
    fn rights_and_verifier() {
        let missing = DataplaneError::Capabilities {
            missing: vec!["CAP_BPF"],
        };
        let said_of = |rights| said(|report| capabilities(rights, report));
        assert_eq!(
            said_of(Ok(())),
            fine("capabilities: NET_ADMIN, NET_RAW, BPF, PERFMON")
        );
        let (text, fix) = (missing.to_string(), "run it as root, as the agent is run");
        assert!(text.contains("CAP_BPF"), "{text}");
        assert_eq!(said_of(Err(missing)), bad(&text, fix));

        let tried = |tried, xdp| said(|report| programs(tried, xdp, report));
        let taken = |no_xdp: Option<&str>| Tried {
            taken: 9,
            no_xdp: no_xdp.map(str::to_owned),
        };
        let all = fine("the verifier takes all 9 programs");
        assert_eq!(tried(Ok(taken(None)), Xdp::Auto), all);
        let why = Some("the kernel lacks bpf_xdp_load_bytes");
        assert_eq!(
            tried(Ok(taken(why)), Xdp::Off),
            fine(
                "the verifier takes all 9 programs but those for --xdp, which is off \
                 (the kernel lacks bpf_xdp_load_bytes)"
            )
        );
        for asked in [Xdp::Auto, Xdp::On] {
            assert_eq!(
                tried(Ok(taken(why)), asked),
                odd(
                    "--xdp has no effect here: the kernel lacks bpf_xdp_load_bytes",
                    "boot a kernel that has it (5.18 or newer), or leave --xdp off"
                )
            );
        }
        let refused = DataplaneError::Capabilities {
            missing: vec!["CAP_BPF"],
        };
        let fix = "boot a kernel that has it (6.1 or newer)";
        assert_eq!(tried(Err(refused), Xdp::Off), bad(&text, fix));
        let broken = DataplaneError::Object("no ELF".to_owned());
        let (text, fix) = (
            broken.to_string(),
            "name an object of this release with --ebpf-object, or leave the flag out",
        );
        assert_eq!(tried(Err(broken), Xdp::Off), bad(&text, fix));
    }

    #[test]
    fn both_kinds_of_hooks_are_fine() {
        let said = |tcx| said(|report| hooks(tcx, report));
        assert_eq!(said(true), fine("tcx: programs are attached by links"));
        let old = "no tcx (kernels before 6.6): programs are attached as clsact filters";
        assert_eq!(said(false), fine(old));
    }

    #[test]
    fn a_bpf_file_system() {
        let said = |is, pre| said(|report| bpffs(Path::new("/b"), is, pre, report));
        assert_eq!(said(Ok(true), false), fine("BPF file system on /b"));
        assert_eq!(
            said(Ok(false), true),
            odd(
                "no BPF file system on /b: the agent will mount one",
                "mount -t bpf bpf /b; in a container, on the host"
            )
        );
        assert_eq!(
            said(Ok(false), false),
            bad(
                "no BPF file system on /b: nothing can be pinned there",
                "mount -t bpf bpf /b, then restart the agent"
            )
        );
        assert_eq!(
            said(Err(Errno::ENOENT), false),
            bad(
                "/b: ENOENT: No such file or directory",
                "name the folder of the BPF file system with --bpffs"
            )
        );
    }
}
