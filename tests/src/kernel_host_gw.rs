//! A node as flanneld's host-gw backend makes it: a route per peer, and nothing else.

use std::path::PathBuf;
use std::sync::Arc;

use crate::flanneld::Flanneld;
use crate::host::Host;
use crate::member::Member;
use crate::netns::Netns;
use crate::network::{Network, Subnet};
use crate::node::Node;

/// A node with real flannel's host-gw routes. Follows leases when told to ([`Member::follow_leases`]).
#[derive(Debug)]
pub struct KernelHostGw {
    flanneld: Flanneld,
}

impl KernelHostGw {
    /// Writes the lease for the first free subnet and `subnet.env`.
    pub fn join(node: impl Into<Arc<Node>>, net: &Network) -> Self {
        let flanneld = Flanneld::on(node.into(), net);
        flanneld.put_lease(&format!(
            r#"{{"PublicIP":"{}","PublicIPv6":null,"BackendType":"host-gw"}}"#,
            flanneld.node.address()
        ));
        flanneld.write_subnet_env(flanneld.node.uplink_mtu());
        let member = Self { flanneld };
        member.follow_leases();
        member
    }

    /// Ends flanneld: its routes stay.
    pub fn stop(self) -> Arc<Node> {
        self.flanneld.node
    }
}

impl Member for KernelHostGw {
    fn node(&self) -> &Node {
        &self.flanneld.node
    }

    fn net(&self) -> &Network {
        &self.flanneld.net
    }

    fn subnet_file(&self) -> PathBuf {
        self.flanneld.subnet_file()
    }

    fn follow_leases(&self) {
        let route = |(subnet, lease): (Subnet, serde_json::Value)| {
            let via = lease["PublicIP"].as_str().expect("a PublicIP");
            format!("route replace {subnet} via {via} dev {}", Node::UPLINK)
        };
        let routes: Vec<String> = self.flanneld.peers("host-gw").map(route).collect();
        self.node().ip_batch(&routes);
    }
}

impl Host for KernelHostGw {
    fn netns(&self) -> &Netns {
        self.node().netns()
    }
}
