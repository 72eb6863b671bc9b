//! Two nodes and a cable for each mode, all of them up at the same time.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use flannel_tests::cable::set_wire;
use flannel_tests::flannel_rules;
use flannel_tests::iptables::Iptables;
use flannel_tests::kube_proxy::Service;
use flannel_tests::member::AnyMember;
use flannel_tests::prelude::*;
use flannel_tests::snat_table::SnatTable;

use crate::host_gw::HostGw;
use crate::mode::Mode;
use crate::outside;
use crate::remote::Ends;

/// What else the nodes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Beside {
    Nothing,
    /// Rules of kube-proxy for one service, with its INVALID drop and FORWARD policy DROP.
    KubeProxy,
    /// No second node but a server outside the cluster.
    Outside,
    /// Both.
    OutsideAndKubeProxy,
}

impl Beside {
    pub(crate) fn is_outside(self) -> bool {
        matches!(self, Self::Outside | Self::OutsideAndKubeProxy)
    }
}

pub(crate) const CLUSTER: &str = "10.244.0.0/16";

/// One mode, ready to be measured.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) mode: Mode,
    pub(crate) ends: Ends,
    /// Our table of translated flows.
    pub(crate) translated: Option<SnatTable>,
    pub(crate) nodes: [Arc<Node>; 2],
    // Kept alive.
    pub(crate) _members: Vec<AnyMember>,
    pub(crate) _pods: Vec<Pod>,
}

impl Stage {
    pub(crate) fn build(lab: &Lab, mode: Mode, beside: Beside, iptables: Iptables) -> Self {
        if beside.is_outside() {
            return outside::build(lab, mode, beside, iptables);
        }
        let name = mode.name();
        let nodes = ["1", "2"].map(|n| Arc::new(lab.node(&format!("{name}{n}"))));
        lab.cable(&nodes[0], &nodes[1]);
        if mode == Mode::Bare {
            let (client, server) = (nodes[0].netns(), nodes[1].netns());
            let ends = Ends::start(client, server, nodes[1].address());
            return Self {
                mode,
                ends,
                translated: None,
                nodes,
                _members: Vec::new(),
                _pods: Vec::new(),
            };
        }

        let net = lab.network(Network::vxlan(&format!("/bench/{name}"), CLUSTER));
        if beside == Beside::KubeProxy {
            for node in &nodes {
                service().install(&**node, iptables, CLUSTER);
            }
        }
        let members = join(mode, &nodes, &net, iptables);
        for member in &members {
            member.follow_leases();
        }
        let pods = ["pod1", "pod2"].iter().zip(&members);
        let pods: Vec<Pod> = pods.map(|(pod, member)| Pod::on(member, pod)).collect();
        pods[0].reaches(&pods[1]);
        for pod in &pods {
            // Connections that are opened and closed thousands of times.
            pod.sysctl("net.ipv4.ip_local_port_range", "1024 65535");
        }
        Self {
            mode,
            ends: Ends::start(pods[0].netns(), pods[1].netns(), pods[1].address()),
            translated: None,
            nodes,
            _members: members,
            _pods: pods,
        }
    }

    pub(crate) fn set(&self, wire: Wire, br_netfilter: bool) {
        for node in &self.nodes {
            set_wire(node, wire);
            node.br_netfilter(br_netfilter);
        }
    }

    /// Forgets finished connections: all namespaces share one hash table, whose chains would grow.
    pub(crate) fn flush_conntrack(&mut self) {
        if let Some(table) = &mut self.translated {
            table.clear();
        }
        for node in &self.nodes {
            // It says on standard error how many there were.
            node.try_exec("conntrack -F");
        }
    }
}

fn join(mode: Mode, nodes: &[Arc<Node>; 2], net: &Network, iptables: Iptables) -> Vec<AnyMember> {
    let members: Vec<AnyMember> = if let Some(flags) = mode.flags() {
        let agent = |node: &Arc<Node>| -> AnyMember {
            Box::new(Agent::start_with(node.clone(), net, flags))
        };
        nodes.iter().map(agent).collect()
    } else if mode == Mode::HostGw {
        let [one, two] = [0, 1].map(|n| HostGw::join(&nodes[n], net, n));
        one.add_route(&two);
        two.add_route(&one);
        vec![Box::new(one), Box::new(two)]
    } else {
        let kernel =
            |node: &Arc<Node>| -> AnyMember { Box::new(KernelVxlan::join(node.clone(), net)) };
        nodes.iter().map(kernel).collect()
    };
    if mode.flags().is_none() {
        for member in &members {
            flannel_rules::install(member, iptables);
        }
    }
    members
}

/// Nobody calls it; its rules are passed by all.
pub(crate) fn service() -> Service {
    let endpoint = |n| SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, n), 5353);
    Service::new(
        Ipv4Addr::new(10, 96, 0, 10),
        53,
        vec![endpoint(200), endpoint(201)],
    )
}
