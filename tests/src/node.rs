//! A node: a namespace with an uplink, a run folder and a bpffs of its own, and nothing of flannel yet.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use nix::mount::{MsFlags, mount};

use crate::host::Host;
use crate::lab::Underlay;
use crate::netns::Netns;
use crate::process::Process;

/// Forwards, filters bridged packets as Kubernetes wants it, and knows where etcd is.
#[derive(Debug)]
pub struct Node {
    netns: Netns,
    name: String,
    address: Ipv4Addr,
    etcd: String,
    folder: PathBuf,
    next_port: AtomicU16,
    underlay: Arc<Underlay>,
}

impl Node {
    /// The device towards other nodes.
    pub const UPLINK: &str = "eth0";

    pub(crate) fn create(
        underlay: &Arc<Underlay>,
        etcd: &str,
        name: &str,
        segment: u8,
        host: u8,
    ) -> Self {
        let netns = underlay.namespace(name);
        let address = underlay.connect(&netns, segment, host);
        let folder = underlay.folder.path().join(name);
        let node = Self {
            netns,
            name: name.to_owned(),
            address,
            etcd: etcd.to_owned(),
            folder,
            next_port: AtomicU16::new(8081),
            underlay: underlay.clone(),
        };
        let bpffs = node.bpffs();
        std::fs::create_dir_all(&bpffs).unwrap_or_else(|e| panic!("{}: {e}", bpffs.display()));
        mount(
            Some("bpffs"),
            &bpffs,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap_or_else(|e| panic!("mount a bpffs on {}: {e}", bpffs.display()));
        node.sysctl("net.ipv4.ip_forward", 1);
        // A new namespace takes the machine's; of `all` and the device's own the larger counts.
        for of in ["all", "default", Self::UPLINK] {
            node.sysctl(&format!("net.ipv4.conf.{of}.rp_filter"), 0);
        }
        node.br_netfilter(true);
        node
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the underlay.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Where it reaches etcd.
    pub fn etcd(&self) -> &str {
        &self.etcd
    }

    pub fn uplink_mtu(&self) -> u32 {
        self.underlay.options().underlay_mtu
    }

    /// Its `/run`, `/var/lib` and so on: everything it keeps is below.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its `/sys/fs/bpf`.
    pub fn bpffs(&self) -> PathBuf {
        self.folder.join("bpf")
    }

    /// The other end of its uplink's wire: where it is, and what it is called there.
    pub(crate) fn far_end(&self) -> (&Netns, String) {
        let [_, _, segment, host] = self.address.octets();
        let netns = match segment {
            0 => &*self.underlay.switch,
            _ => self.underlay.router(),
        };
        (netns, format!("port{host}"))
    }

    /// Plugs the uplink's wire in, or pulls it.
    pub fn set_carrier(&self, on: bool) {
        let (netns, port) = self.far_end();
        let state = if on { "up" } else { "down" };
        netns.run(&format!("ip link set {port} {state}"));
    }

    /// Its `/run/flannel`, shared by its agents.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("run/flannel")
    }

    /// The key of its WireGuard device.
    pub fn key_file(&self) -> PathBuf {
        self.folder.join("wgkey")
    }

    /// What agents keep beyond a reboot.
    pub fn snapshot_dir(&self) -> PathBuf {
        self.folder.join("var/lib/flannel-ebpf")
    }

    /// Whether bridged packets pass iptables (`br_netfilter`).
    pub fn br_netfilter(&self, on: bool) {
        self.sysctl("net.bridge.bridge-nf-call-iptables", u8::from(on));
    }

    /// A TCP port of this node that no other caller gets.
    pub fn port(&self) -> u16 {
        self.next_port.fetch_add(1, Ordering::Relaxed)
    }

    /// Starts a long-running command; its output goes to `<name>.log` in the node's folder.
    pub fn spawn(&self, name: &str, command: Command) -> Process {
        let log = self.folder.join(format!("{name}.log"));
        Process::spawn(&format!("{name} on {}", self.name), command, &log)
    }

    /// A namespace for a pod that the test attaches itself.
    pub fn pod_namespace(&self, pod: &str) -> Netns {
        self.underlay.namespace(&format!("{}-{pod}", self.name))
    }
}

impl Host for Node {
    fn netns(&self) -> &Netns {
        &self.netns
    }
}
