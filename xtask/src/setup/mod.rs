//! `setup`: what a fresh machine lacks, and nothing else.

mod coredns;
mod debian;
mod flanneld;
mod go;
mod go_program;
mod helm;
mod kernel;
mod kube_apiserver;
mod kube_cluster;
mod kube_e2e;
mod kube_router;
mod needs;
mod tools;

use std::{fs, thread};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::workspace::Workspace;
use go::GoCache;

pub(crate) use tools::CARGO_DENY;

/// What the machine runs, as far as setup has to know.
#[derive(Debug, PartialEq, Eq)]
enum System {
    Debian12,
    /// Its name, for the message.
    Other(String),
}

#[derive(Debug, Default, Args)]
pub(crate) struct Setup {
    /// Say what would be installed, and install nothing
    #[arg(long)]
    dry_run: bool,
}

impl Setup {
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<()> {
        self.packages(workspace)?;
        self.bpf_linker(workspace)?;
        self.of_others(workspace)
    }

    /// As [`Setup::run`], and `work` meanwhile, which needs packages and bpf-linker alone: compilers of Go and Rust wait for
    /// network, disk and their linkers in turn.
    pub(crate) fn run_beside<T>(
        workspace: &Workspace,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let setup = Self::default();
        setup.packages(workspace)?;
        thread::scope(|scope| {
            let others = scope.spawn(|| setup.of_others(workspace));
            let done = setup.bpf_linker(workspace).and_then(|()| work());
            let others = others.join().unwrap_or_else(|_| bail!("setup broke"));
            // Both are said: what failed first may be the smaller evil.
            match (done, others) {
                (Err(error), Err(other)) => Err(error.context(format!("and: {other:#}"))),
                (done, others) => others.and(done),
            }
        })
    }

    fn packages(&self, workspace: &Workspace) -> Result<()> {
        match this_system() {
            System::Debian12 => debian::packages(workspace, self.dry_run),
            System::Other(name) => explain(workspace, &name),
        }
    }

    fn bpf_linker(&self, workspace: &Workspace) -> Result<()> {
        match this_system() {
            System::Debian12 => debian::bpf_linker(workspace, self.dry_run),
            System::Other(_) => Ok(()),
        }
    }

    /// Other people's programs that tests run, and the module of the kernel that they need.
    fn of_others(&self, workspace: &Workspace) -> Result<()> {
        let cache = GoCache::new(workspace)?;
        flanneld::ensure(workspace, &cache, self.dry_run)?;
        GO_PROGRAMS
            .iter()
            .try_for_each(|program| program.ensure(workspace, &cache, self.dry_run))?;
        match this_system() {
            System::Debian12 => kernel::ensure_br_netfilter(self.dry_run),
            System::Other(_) => Ok(()),
        }
    }
}

/// What tests need of Kubernetes.
const GO_PROGRAMS: &[go_program::Program] = &[kube_apiserver::KUBE_APISERVER, helm::HELM];

/// Also installs cargo-deny, which takes minutes and which only `check` needs.
pub(crate) fn cargo_deny(workspace: &Workspace) -> Result<()> {
    tools::ensure(workspace, &CARGO_DENY, false)
}

/// Also installs what boots other kernels, which only `test --kernel` needs.
///
/// # Errors
/// On other systems than Debian 12: the guest runs programs that were built for its C library.
pub(crate) fn virtual_machines() -> Result<()> {
    match this_system() {
        System::Debian12 => debian::virtual_machines(),
        System::Other(name) => bail!(
            "this is {name}; tests on other kernels take kernels and the guest's programs from Debian's \
             packages, and run on Debian 12"
        ),
    }
}

/// What a real cluster is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClusterFor {
    /// `test --cluster` and `demo --kubernetes`.
    Ours,
    /// `test --sig-network`: Kubernetes' own tests.
    SigNetwork,
}

/// Also installs what runs a real cluster, which nothing else needs.
///
/// # Errors
/// On other systems than Debian 12: kubelet is of the version that goes with Debian's containerd.
pub(crate) fn cluster(workspace: &Workspace, what_for: ClusterFor) -> Result<()> {
    match this_system() {
        System::Debian12 => debian::cluster()?,
        System::Other(name) => {
            bail!("this is {name}; the cluster runs on Debian 12, with its containerd and runc")
        }
    }
    let cache = GoCache::new(workspace)?;
    let mut programs = vec![kube_cluster::KUBE_CLUSTER, kube_router::KUBE_ROUTER];
    if what_for == ClusterFor::SigNetwork {
        // By the same cache: most of the packages are the same.
        programs.extend([kube_e2e::KUBE_E2E, coredns::COREDNS]);
    }
    programs
        .iter()
        .try_for_each(|program| program.ensure(workspace, &cache, false))?;
    Ok(())
}

/// The manifest of the flannel that `setup` builds.
pub(crate) fn flannels_manifest(workspace: &Workspace) -> Result<String> {
    flanneld::manifest(workspace)
}

fn this_system() -> System {
    system(&fs::read_to_string("/etc/os-release").unwrap_or_default())
}

fn system(os_release: &str) -> System {
    let field = |name: &str| {
        os_release.lines().find_map(|line| {
            let value = line.strip_prefix(name)?.strip_prefix('=')?;
            Some(value.trim_matches('"'))
        })
    };
    match (field("ID"), field("VERSION_ID")) {
        (Some("debian"), Some("12")) => System::Debian12,
        _ => System::Other(
            field("PRETTY_NAME")
                .unwrap_or("an unknown system")
                .to_owned(),
        ),
    }
}

/// Installing is the owner's business elsewhere: package names and versions are not ours to guess.
fn explain(workspace: &Workspace, name: &str) -> Result<()> {
    let missing = needs::missing_commands();
    let linker_missing = !workspace.tool("bpf-linker").is_file();
    if missing.is_empty() && !linker_missing {
        println!("setup: this is {name}, and everything needed is here");
        return Ok(());
    }
    println!("setup: this is {name}; setup installs only on Debian 12. Please install:");
    for need in &missing {
        println!(
            "  {:<28} {} (Debian: {})",
            need.command, need.purpose, need.package
        );
    }
    println!("  a Rust compiler for BPF: see CONTRIBUTING.md, \"Compilers\"");
    if linker_missing {
        println!(
            "  bpf-linker for the LLVM of that compiler: cargo install --locked --root {} \
             bpf-linker --version {} --no-default-features --features llvm-<major>",
            workspace.tools_dir().display(),
            tools::BPF_LINKER_VERSION
        );
    }
    let names = missing
        .iter()
        .map(|need| need.command)
        .collect::<Vec<_>>()
        .join(", ");
    Err(anyhow::anyhow!("not everything is installed: {names}"))
        .context("setup stops here, because a test without its tools would prove nothing")
}

/// Are we root? Network namespaces, BPF and apt ask for it.
pub(crate) fn is_root() -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    // The owner of a process's folder in /proc is its effective user.
    Ok(fs::metadata("/proc/self")
        .context("cannot read /proc/self: is /proc mounted?")?
        .uid()
        == 0)
}

/// # Errors
/// When we are not root, naming `what` asks for it.
pub(crate) fn require_root(what: &str) -> Result<()> {
    if is_root()? {
        return Ok(());
    }
    bail!(
        "{what} needs root (network namespaces and BPF): run it as root, or with `sudo -E env PATH=\"$PATH\"`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_12_is_known_by_id_and_version() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert_eq!(system(text), System::Debian12);
    }

    #[test]
    fn others_are_named() {
        let text = "PRETTY_NAME=\"Fedora Linux 43\"\nID=fedora\nVERSION_ID=43\n";
        assert_eq!(system(text), System::Other("Fedora Linux 43".to_owned()));
        assert_eq!(system(""), System::Other("an unknown system".to_owned()));
    }
}
