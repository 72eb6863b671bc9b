//! The guest's root: an initramfs of Debian packages with a PID 1 of ours, kept between runs.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::apt::Apt;
use crate::archive;

const INIT: &str = include_str!("init.sh");

/// What tests call, and what those need to run without a package manager.
const PACKAGES: &[&str] = &[
    "base-passwd",
    "bash",
    "bpftool",
    "conntrack",
    "containernetworking-plugins",
    "coreutils",
    "etcd-client",
    "etcd-server",
    "ethtool",
    "findutils",
    "gawk",
    "grep",
    "hostname",
    "iperf3",
    "iproute2",
    "ipset",
    "iptables",
    "iputils-ping",
    "ipvsadm",
    "kmod",
    "mount",
    "nftables",
    "openssl",
    "procps",
    "sed",
    "tcpdump",
    "traceroute",
    // In place of usrmerge, which brings perl.
    "usr-is-merged",
    "util-linux",
    "wireguard-tools",
];

/// What `update-alternatives` would link; no package's script runs.
const ALTERNATIVES: &[(&str, &str)] = &[
    ("usr/bin/awk", "gawk"),
    ("usr/bin/traceroute", "traceroute.db"),
    ("usr/sbin/ip6tables", "ip6tables-nft"),
    ("usr/sbin/ip6tables-restore", "ip6tables-nft-restore"),
    ("usr/sbin/ip6tables-save", "ip6tables-nft-save"),
    ("usr/sbin/iptables", "iptables-nft"),
    ("usr/sbin/iptables-restore", "iptables-nft-restore"),
    ("usr/sbin/iptables-save", "iptables-nft-save"),
];

/// The archive with the root, built if there is none of today's recipe.
pub(super) fn get(cache: &Path) -> Result<PathBuf> {
    let archive = cache.join(format!("root-{}.cpio", recipe()));
    if archive.is_file() {
        return Ok(archive);
    }
    println!("guest: building its root of Debian packages");
    let apt = Apt::own(cache)?;
    let tree = tempfile::tempdir_in(cache).context("a folder for the guest's root")?;
    let tree = tree.path();
    for folder in ["bin", "sbin", "lib", "lib64"] {
        let target = tree.join("usr").join(folder);
        fs::create_dir_all(&target).with_context(|| format!("create {}", target.display()))?;
        symlink(format!("usr/{folder}"), tree.join(folder)).context("link into usr")?;
    }
    for package in apt.closure(PACKAGES)? {
        archive::unpack(&package, tree, archive::UNREAD)?;
    }
    apt.forget_downloads()?;
    for (link, target) in ALTERNATIVES {
        symlink(target, tree.join(link)).with_context(|| format!("link {link} to {target}"))?;
    }
    for file in ["passwd", "group"] {
        let (from, to) = (
            format!("usr/share/base-passwd/{file}.master"),
            format!("etc/{file}"),
        );
        fs::copy(tree.join(&from), tree.join(to)).with_context(|| format!("copy {from}"))?;
    }
    let init = tree.join("init");
    fs::write(&init, INIT).context("write the guest's init")?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))
        .context("make the guest's init executable")?;
    archive::pack(tree, &archive)?;
    Ok(archive)
}

/// Names what the root is made of; another name, another root.
fn recipe() -> String {
    let mut hash = Sha256::new();
    hash.update(INIT);
    for word in PACKAGES {
        hash.update(word);
    }
    for (link, target) in ALTERNATIVES {
        hash.update(link);
        hash.update(target);
    }
    let digest = hash.finalize();
    digest
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
