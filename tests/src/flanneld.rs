//! What flanneld does on a node whatever its backend: a lease in etcd, and `subnet.env`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;

use crate::datastore::parse_leases;
use crate::netns::run;
use crate::network::{Network, Subnet};
use crate::node::Node;
use crate::subnet_env::SubnetEnv;

/// A node's part in the network. Goes, as flanneld does, without taking anything along.
#[derive(Debug)]
pub(crate) struct Flanneld {
    pub(crate) node: Arc<Node>,
    pub(crate) net: Network,
    pub(crate) subnet: Subnet,
}

impl Flanneld {
    /// With the first free subnet, without a lease yet.
    pub(crate) fn on(node: Arc<Node>, net: &Network) -> Self {
        let held: Vec<Subnet> = leases(&node, net).into_iter().map(|(s, _)| s).collect();
        let mut subnets = net.subnets();
        let subnet = subnets.find(|s| !held.contains(s)).expect("a free subnet");
        Self::with_subnet(node, net, subnet)
    }

    /// With a subnet that the node had before: flanneld finds its own lease by its address.
    pub(crate) fn with_subnet(node: Arc<Node>, net: &Network, subnet: Subnet) -> Self {
        Self {
            node,
            net: net.clone(),
            subnet,
        }
    }

    /// Writes its lease, which ends with the etcd lease after 24 hours.
    pub(crate) fn put_lease(&self, value: &str) {
        let granted = run(etcdctl(&self.node).args(["lease", "grant", "86400"]));
        // "lease 694d77aa9e38260f granted with TTL(86400s)"
        let id = granted.split_whitespace().nth(1).expect("the lease's id");
        let key = self.net.lease_key(self.subnet);
        run(etcdctl(&self.node).args(["put", &key, "--lease", id, "--", value]));
    }

    /// The other nodes' leases of one backend, as this node sees them: over its uplink.
    pub(crate) fn peers(&self, backend: &str) -> impl Iterator<Item = (Subnet, Value)> {
        leases(&self.node, &self.net)
            .into_iter()
            .filter(move |(subnet, lease)| {
                *subnet != self.subnet && lease["BackendType"] == backend
            })
    }

    /// Real flanneld masquerades; its rules are in [`crate::flannel_rules`].
    pub(crate) fn write_subnet_env(&self, mtu: u32) {
        let env = SubnetEnv::new(&self.net, self.subnet, mtu, true);
        let file = self.subnet_file();
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("make the run folder");
        std::fs::write(&file, env.text()).expect("write subnet.env");
    }

    pub(crate) fn subnet_file(&self) -> PathBuf {
        self.node.folder().join("run/flannel/subnet.env")
    }
}

fn leases(node: &Node, net: &Network) -> Vec<(Subnet, Value)> {
    let prefix = format!("{}/subnets/", net.prefix);
    parse_leases(&run(etcdctl(node).args(["get", "--prefix", &prefix])))
}

/// A client of the lab's etcd on `node`: it asks over the node's uplink.
pub(crate) fn etcdctl(node: &Node) -> Command {
    let mut command = crate::host::Host::netns(node).command("etcdctl");
    command
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", node.etcd()]);
    command
}
