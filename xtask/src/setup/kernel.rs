//! What the tests ask of the kernel beyond namespaces and BPF.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process;

const BRIDGE_SYSCTLS: &str = "/proc/sys/net/bridge";

/// Loads `br_netfilter`, which Kubernetes nodes have and which nothing loads by itself: the tests run
/// with bridged packets passing netfilter, and without.
pub(super) fn ensure_br_netfilter(dry_run: bool) -> Result<()> {
    if Path::new(BRIDGE_SYSCTLS).is_dir() {
        return Ok(());
    }
    println!(
        "setup: loading the kernel module br_netfilter (switched off for this machine's own bridges)"
    );
    if dry_run {
        return Ok(());
    }
    process::run(Command::new("modprobe").arg("br_netfilter"))
        .context("the tests need br_netfilter; is it built for the running kernel?")?;
    // It comes switched on, in every namespace; the machine's own bridges worked without it so far.
    for family in ["iptables", "ip6tables", "arptables"] {
        let path = Path::new(BRIDGE_SYSCTLS).join(format!("bridge-nf-call-{family}"));
        fs::write(&path, "0").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
