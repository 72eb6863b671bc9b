//! The list of what building, testing and the demo call.

use std::env;
use std::path::Path;

/// One thing the machine must have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Need {
    /// Debian's package.
    pub(crate) package: &'static str,
    /// A program in PATH, or an absolute path, whose presence shows that it is there.
    pub(crate) command: &'static str,
    pub(crate) purpose: &'static str,
}

const fn need(package: &'static str, command: &'static str, purpose: &'static str) -> Need {
    Need {
        package,
        command,
        purpose,
    }
}

/// Everything but the compiler for BPF and its LLVM, whose packages have versions in their names.
pub(crate) const NEEDS: &[Need] = &[
    need("gcc", "cc", "linker for host programs"),
    need("g++", "g++", "the fuzz targets' engine"),
    need(
        "libc6-dev",
        "/usr/include/stdio.h",
        "headers for C code in dependencies",
    ),
    need(
        "libprotobuf-dev",
        "/usr/include/google/protobuf/descriptor.proto",
        "what the etcd client's messages import",
    ),
    need("protobuf-compiler", "protoc", "the etcd client's messages"),
    need("etcd-server", "etcd", "the store of the tests and the demo"),
    need("etcd-client", "etcdctl", "shows the leases in the demo"),
    need(
        "containernetworking-plugins",
        "/usr/lib/cni/bridge",
        "puts pods on their nodes",
    ),
    need("iproute2", "ip", "nodes and pods as network namespaces"),
    need("bpftool", "bpftool", "shows the maps in the demo"),
    need("iputils-ping", "ping", "tests and demo"),
    need("iperf3", "iperf3", "tests and demo"),
    need("tcpdump", "tcpdump", "tests of what is on the wire"),
    need("traceroute", "traceroute", "tests of time to live"),
    need("ethtool", "ethtool", "tests of offloads"),
    need("conntrack", "conntrack", "tests beside kube-proxy's rules"),
    need(
        "curl",
        "curl",
        "tests with a kube-apiserver, or with client certificates",
    ),
    need("iptables", "iptables", "tests beside kube-proxy's rules"),
    need("nftables", "nft", "tests beside a firewall"),
    need("procps", "sysctl", "settings of the tests' namespaces"),
];

/// What is missing, judged by looking for the commands.
pub(crate) fn missing_commands() -> Vec<Need> {
    NEEDS
        .iter()
        .copied()
        .filter(|need| !is_here(need.command))
        .collect()
}

fn is_here(command: &str) -> bool {
    if command.starts_with('/') {
        return Path::new(command).exists();
    }
    // The system's own folders too: a user's PATH often lacks them, and root's has them.
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(command).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_path_and_by_absolute_path() {
        assert!(is_here("sh"));
        assert!(is_here("/proc/self"));
        assert!(!is_here("no-such-command-here"));
        assert!(!is_here("/no/such/file"));
    }
}
