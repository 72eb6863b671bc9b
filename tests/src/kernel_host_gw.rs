//! A node as flanneld's host-gw backend makes it: a route per peer, and nothing else.

use std::path::PathBuf;
use std::sync::Arc;

use crate::host::Host;
use crate::kernel_vxlan::{leases, put_lease};
use crate::member::Member;
use crate::netns::Netns;
use crate::network::{Network, Subnet};
use crate::node::Node;
use crate::subnet_env::SubnetEnv;

/// A node with real flannel's host-gw routes. Follows leases when told to ([`Member::follow_leases`]).
#[derive(Debug)]
pub struct KernelHostGw {
    node: Arc<Node>,
    net: Network,
    subnet: Subnet,
}

impl KernelHostGw {
    /// Writes the lease for the first free subnet and `subnet.env`.
    pub fn join(node: impl Into<Arc<Node>>, net: &Network) -> Self {
        let node = node.into();
        let held: Vec<Subnet> = leases(&node, net).into_iter().map(|(s, _)| s).collect();
        let subnet = net
            .subnets()
            .find(|s| !held.contains(s))
            .expect("a free subnet");
        let value = format!(
            r#"{{"PublicIP":"{}","PublicIPv6":null,"BackendType":"host-gw"}}"#,
            node.address()
        );
        put_lease(&node, &net.lease_key(subnet), &value);
        let member = Self {
            node,
            net: net.clone(),
            subnet,
        };
        let env = SubnetEnv::new(net, subnet, member.node.uplink_mtu(), true);
        let file = member.subnet_file();
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("make the run folder");
        std::fs::write(&file, env.text()).expect("write subnet.env");
        member.follow_leases();
        member
    }

    /// Ends flanneld: its routes stay.
    pub fn stop(self) -> Arc<Node> {
        self.node
    }
}

impl Member for KernelHostGw {
    fn node(&self) -> &Node {
        &self.node
    }

    fn net(&self) -> &Network {
        &self.net
    }

    fn subnet_file(&self) -> PathBuf {
        self.node.folder().join("run/flannel/subnet.env")
    }

    fn follow_leases(&self) {
        let routes: Vec<String> = leases(&self.node, &self.net)
            .into_iter()
            .filter(|(subnet, lease)| *subnet != self.subnet && lease["BackendType"] == "host-gw")
            .map(|(subnet, lease)| {
                let via = lease["PublicIP"].as_str().expect("a PublicIP");
                format!("route replace {subnet} via {via} dev {}", Node::UPLINK)
            })
            .collect();
        self.node.ip_batch(&routes);
    }
}

impl Host for KernelHostGw {
    fn netns(&self) -> &Netns {
        self.node.netns()
    }
}
