//! Real flanneld on a node: the control. What `cargo xtask setup` built, started as an operator starts it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::agent::http_status;
use crate::datastore::parse_leases;
use crate::flanneld::etcdctl;
use crate::host::Host;
use crate::member::Member;
use crate::netns::{Netns, run};
use crate::network::{Backend, Network, Subnet};
use crate::node::Node;
use crate::process::Process;
use crate::wait::{SOON, eventually};
use crate::with_daemon::WithDaemon;

/// flanneld of one network on one node. A node may have several.
#[derive(Debug)]
pub struct RealFlanneld {
    node: Arc<Node>,
    net: Network,
    name: String,
    subnet_file: PathBuf,
    port: u16,
    extra: Vec<String>,
    process: Process,
}

impl RealFlanneld {
    /// Starts it on `node` and waits until it is ready and follows the leases that are there.
    #[track_caller]
    pub fn start(node: impl Into<Arc<Node>>, net: &Network) -> Self {
        Self::start_with(node, net, &[])
    }

    /// The same with more flags, which replace the harness's own.
    #[track_caller]
    pub fn start_with(node: impl Into<Arc<Node>>, net: &Network, flags: &[&str]) -> Self {
        let mut flanneld = Self::spawn(node, net, flags);
        flanneld.wait_until_ready();
        flanneld
    }

    /// Starts it and returns at once.
    #[track_caller]
    pub fn spawn(node: impl Into<Arc<Node>>, net: &Network, flags: &[&str]) -> Self {
        Self::spawn_under("", node, net, flags)
    }

    /// The same by way of another command, such as one that sets a variable.
    #[track_caller]
    pub fn spawn_under(
        wrapper: &str,
        node: impl Into<Arc<Node>>,
        net: &Network,
        flags: &[&str],
    ) -> Self {
        let node = node.into();
        let name = format!(
            "flanneld-{}",
            net.prefix.trim_matches('/').replace('/', "_")
        );
        let subnet_file = node.folder().join("run").join(&name).join("subnet.env");
        let port = node.port();
        let mut command = node.command(&format!("{wrapper} {}", binary()));
        command.env("NODE_NAME", node.name());
        command.env("WIREGUARD_KEY_FILE", node.key_file());
        for (flag, value) in [
            ("--etcd-endpoints", node.etcd()),
            ("--etcd-prefix", &net.prefix),
            ("--iface", Node::UPLINK),
            ("--subnet-file", &subnet_file.display().to_string()),
            ("--healthz-ip", "127.0.0.1"),
            ("--healthz-port", &port.to_string()),
        ] {
            if !flags.iter().any(|f| f.starts_with(&format!("{flag}="))) {
                command.arg(format!("{flag}={value}"));
            }
        }
        command.args(flags.iter().filter(|flag| **flag != "--iface="));
        Self {
            process: node.spawn(&name, command),
            node,
            net: net.clone(),
            name,
            subnet_file,
            port,
            extra: flags.iter().map(|f| (*f).to_owned()).collect(),
        }
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Ends it, and leaves the node as it leaves it.
    #[track_caller]
    pub fn stop(mut self) -> Arc<Node> {
        if self.process.exited().is_none() {
            self.terminate();
        }
        self.node
    }

    /// The leases of others that it makes a route for.
    fn peers(&self) -> impl Iterator<Item = Subnet> {
        let prefix = format!("{}/subnets/", self.net.prefix);
        let leases = parse_leases(&run(etcdctl(&self.node).args(["get", "--prefix", &prefix])));
        let (own, backend) = (self.subnet(), self.net.backend.name());
        leases
            .into_iter()
            .filter(move |(subnet, lease): &(Subnet, Value)| {
                *subnet != own && lease["BackendType"] == backend && is_readable(lease)
            })
            .map(|(subnet, _)| subnet)
    }
}

/// One a line, as routes are.
fn subnets_of_peers(shown: &str) -> String {
    let lines = shown
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    lines.map(|subnet| format!("{subnet} \n")).collect()
}

/// Whether it can make a route of a lease; of others it logs an error.
fn is_readable(lease: &Value) -> bool {
    let public_ip = lease["PublicIP"].as_str();
    let mac = lease["BackendData"]["VtepMAC"].as_str();
    public_ip.is_some_and(|ip| ip.parse::<Ipv4Addr>().is_ok())
        && (lease["BackendType"] != "vxlan" || mac.is_some_and(|mac| mac.matches(':').count() == 5))
}

impl Member for RealFlanneld {
    fn node(&self) -> &Node {
        &self.node
    }

    fn net(&self) -> &Network {
        &self.net
    }

    fn subnet_file(&self) -> PathBuf {
        self.subnet_file.clone()
    }

    /// It follows by itself; this waits until it has. The route is the last that it makes for a peer.
    #[track_caller]
    fn follow_leases(&self) {
        // Which peers the udp backend knows is only in its proxy, and alloc knows none.
        if matches!(self.net.backend, Backend::Udp | Backend::Alloc) {
            return;
        }
        let what = format!("{} on {} knows its peers", self.name, self.node.name());
        eventually(what, SOON, || {
            let routes = match self.net.backend {
                // One route for all, which is there before.
                Backend::WireGuard => {
                    subnets_of_peers(&self.node.exec("wg show flannel-wg allowed-ips"))
                }
                _ => self.node.exec("ip -4 route show"),
            };
            let has = |subnet: Subnet| routes.lines().any(|l| l.starts_with(&format!("{subnet} ")));
            self.peers().all(has)
        });
    }
}

impl WithDaemon for RealFlanneld {
    fn node_arc(&self) -> Arc<Node> {
        self.node.clone()
    }

    /// Waits for `subnet.env` and for `/readyz`, which says 200 once that is written and the firewall's rules are there, and then
    /// for the peers.
    ///
    /// # Panics
    /// If it ends instead, or takes too long.
    #[track_caller]
    fn wait_until_ready(&mut self) {
        let what = format!("{} on {} is ready", self.name, self.node.name());
        eventually(what, Duration::from_secs(30), || {
            if let Some(status) = self.process.exited() {
                panic!("{} on {} ended: {status}", self.name, self.node.name());
            }
            http_status(&*self.node, self.port, "/readyz") == Some(200) && self.subnet_file.exists()
        });
        self.follow_leases();
    }

    fn log(&self) -> String {
        self.process.log()
    }

    fn kill(&mut self) {
        self.process.kill();
    }

    #[track_caller]
    fn terminate(&mut self) -> ExitStatus {
        self.process.terminate(SOON)
    }

    #[track_caller]
    fn restart(&mut self) {
        let extra = self.extra.clone();
        let flags: Vec<&str> = extra.iter().map(String::as_str).collect();
        self.restart_with(&flags);
    }

    #[track_caller]
    fn restart_with(&mut self, flags: &[&str]) {
        *self = Self::spawn(self.node.clone(), &self.net, flags);
        self.wait_until_ready();
    }
}

impl Host for RealFlanneld {
    fn netns(&self) -> &Netns {
        self.node.netns()
    }
}

/// Where `cargo xtask setup` put it.
///
/// # Panics
/// If it did not.
fn binary() -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = tests.parent().expect("the repository");
    let flanneld = repository.join(".cache/tools/bin/flanneld");
    assert!(
        flanneld.exists(),
        "{} is missing: `cargo xtask setup` builds it",
        flanneld.display()
    );
    flanneld.to_str().expect("a path in UTF-8").to_owned()
}
