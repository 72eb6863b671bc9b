//! A node as flanneld's host-gw backend makes it: a route per peer, pods with the uplink's MTU.

use std::path::PathBuf;
use std::sync::Arc;

use flannel_tests::host::Host;
use flannel_tests::member::Member;
use flannel_tests::netns::Netns;
use flannel_tests::network::{Network, Subnet};
use flannel_tests::node::Node;
use flannel_tests::subnet_env::SubnetEnv;

#[derive(Debug)]
pub(crate) struct HostGw {
    node: Arc<Node>,
    net: Network,
    subnet: Subnet,
}

impl HostGw {
    /// Takes the `n`-th subnet of `net`.
    pub(crate) fn join(node: &Arc<Node>, net: &Network, n: usize) -> Self {
        let subnet = net.subnets().nth(n).expect("a free subnet");
        let member = Self {
            node: node.clone(),
            net: net.clone(),
            subnet,
        };
        let env = SubnetEnv::new(net, subnet, node.uplink_mtu(), true);
        let file = member.subnet_file();
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("make the run folder");
        std::fs::write(&file, env.text()).expect("write subnet.env");
        member
    }

    pub(crate) fn add_route(&self, peer: &Self) {
        let (subnet, via) = (peer.subnet, peer.node.address());
        let uplink = Node::UPLINK;
        self.node
            .exec(&format!("ip route add {subnet} via {via} dev {uplink}"));
    }
}

impl Member for HostGw {
    fn node(&self) -> &Node {
        &self.node
    }

    fn net(&self) -> &Network {
        &self.net
    }

    fn subnet_file(&self) -> PathBuf {
        self.node.folder().join("run/flannel/subnet.env")
    }

    fn follow_leases(&self) {}
}

impl Host for HostGw {
    fn netns(&self) -> &Netns {
        self.node.netns()
    }
}
