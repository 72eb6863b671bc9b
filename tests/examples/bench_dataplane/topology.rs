//! Two nodes and a cable for each mode, all of them up at the same time.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;

use flannel_common::maps::STATS;
use flannel_tests::bpftool::map_pin;
use flannel_tests::cable::set_wire;
use flannel_tests::flannel_rules;
use flannel_tests::iptables::Iptables;
use flannel_tests::kube_proxy::Service;
use flannel_tests::member::AnyMember;
use flannel_tests::prelude::*;
use flannel_tests::snat_table::SnatTable;
use serde::{Deserialize, Serialize};

use crate::mode::Mode;
use crate::outside;
use crate::remote::Ends;

/// What else the nodes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Beside {
    Nothing,
    /// Rules of kube-proxy for one service, with its INVALID drop and FORWARD policy DROP.
    KubeProxy,
    /// No second node but a server outside the cluster.
    Outside,
    /// Both.
    OutsideAndKubeProxy,
    /// The server's node translates the address that the client asks for, as kube-proxy's rules do.
    Translated,
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
    translated: Option<SnatTable>,
    /// Where our programs count.
    pub(crate) counters: Vec<PathBuf>,
    nodes: [Arc<Node>; 2],
    /// Whom the client asks for, if not the server by its own address.
    address: Option<Ipv4Addr>,
    /// The client's and, if it is no node, the server's.
    pods: Vec<Pod>,
    // Kept alive.
    _members: Vec<AnyMember>,
}

/// With what the nodes are set up.
#[derive(Debug)]
pub(crate) struct Means {
    /// Which kind writes flannel's rules.
    pub(crate) iptables: Iptables,
    /// The agent of [`Mode::Before`].
    pub(crate) before: Option<PathBuf>,
}

/// Who takes part in a network, and what is known of our own agents among them.
#[derive(Debug, Default)]
pub(crate) struct Members {
    pub(crate) all: Vec<AnyMember>,
    pub(crate) counters: Vec<PathBuf>,
    pub(crate) translated: Option<SnatTable>,
}

impl Stage {
    pub(crate) fn build(lab: &Lab, mode: Mode, beside: Beside, means: &Means) -> Self {
        if beside.is_outside() {
            return outside::build(lab, mode, beside, means);
        }
        let iptables = means.iptables;
        let name = mode.name();
        let nodes = ["1", "2"].map(|n| Arc::new(lab.node(&format!("{name}{n}"))));
        lab.cable(&nodes[0], &nodes[1]);
        if mode == Mode::Bare {
            return Self::new(mode, nodes, Members::default(), Vec::new());
        }
        let prefix = format!("/bench/{name}");
        let net = lab.network(match mode {
            Mode::HostGw | Mode::KernelHostGw => Network::host_gw(&prefix, CLUSTER),
            Mode::Udp | Mode::FlanneldUdp => Network::udp(&prefix, CLUSTER),
            _ => Network::vxlan(&prefix, CLUSTER),
        });
        if beside == Beside::KubeProxy {
            for node in &nodes {
                service().install(&**node, iptables, CLUSTER);
            }
        }
        let mut members = Members::default();
        for node in &nodes {
            members.join(mode, node, &net, &[], means);
        }
        for member in &members.all {
            member.follow_leases();
        }
        let pods = ["pod1", "pod2"].iter().zip(&members.all);
        let pods: Vec<Pod> = pods.map(|(pod, member)| Pod::on(member, pod)).collect();
        pods[0].reaches(&pods[1]);
        if beside != Beside::Translated {
            return Self::new(mode, nodes, members, pods);
        }
        let address = translate(&members.all[1], &pods[1], iptables);
        Self::asking_for(Some(address), mode, nodes, members, pods)
    }

    /// Traffic goes from the first pod to the second, or to the second node; without pods, from node to node.
    pub(crate) fn new(mode: Mode, nodes: [Arc<Node>; 2], members: Members, pods: Vec<Pod>) -> Self {
        Self::asking_for(None, mode, nodes, members, pods)
    }

    fn asking_for(
        address: Option<Ipv4Addr>,
        mode: Mode,
        nodes: [Arc<Node>; 2],
        members: Members,
        pods: Vec<Pod>,
    ) -> Self {
        for pod in &pods {
            // Connections that are opened and closed thousands of times.
            pod.sysctl("net.ipv4.ip_local_port_range", "1024 65535");
        }
        Self {
            mode,
            ends: ends(&nodes, &pods, address),
            translated: members.translated,
            counters: members.counters,
            nodes,
            address,
            pods,
            _members: members.all,
        }
    }

    /// Other workers in place of those that failed.
    pub(crate) fn restart(&mut self) {
        self.ends = ends(&self.nodes, &self.pods, self.address);
        self.flush_conntrack();
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

fn ends(nodes: &[Arc<Node>; 2], pods: &[Pod], address: Option<Ipv4Addr>) -> Ends {
    let client = pods.first().map_or(nodes[0].netns(), Host::netns);
    let (server, own) = match pods.get(1) {
        Some(pod) => (pod.netns(), pod.address()),
        None => (nodes[1].netns(), nodes[1].address()),
    };
    Ends::start(client, server, address.unwrap_or(own))
}

/// Makes an address of the node's subnet that no pod has lead to `pod`.
fn translate(member: &AnyMember, pod: &Pod, iptables: Iptables) -> Ipv4Addr {
    let [a, b, c, _] = member.subnet().base.octets();
    let address = Ipv4Addr::new(a, b, c, 250);
    let to = pod.address();
    iptables.restore(
        member.node(),
        &[
            "*nat".to_owned(),
            format!("-A PREROUTING -d {address}/32 -j DNAT --to-destination {to}"),
            "COMMIT".to_owned(),
        ],
    );
    address
}

impl Members {
    /// Makes `node` one of them, with flannel's rules where it is the kernel's.
    pub(crate) fn join(
        &mut self,
        mode: Mode,
        node: &Arc<Node>,
        net: &Network,
        more: &[&str],
        means: &Means,
    ) {
        let member: AnyMember = if let Some(flags) = mode.flags() {
            let flags: Vec<&str> = flags.iter().chain(more).copied().collect();
            let agent = match (mode, &means.before) {
                (Mode::Before, Some(program)) => {
                    Agent::start_program(program, node.clone(), net, &flags)
                }
                _ => Agent::start_with(node.clone(), net, &flags),
            };
            // Another build's maps may have other layouts.
            if mode != Mode::Before {
                self.counters.push(map_pin(&agent, STATS));
                if more.contains(&outside::MASQUERADE) {
                    self.translated = Some(SnatTable::of(&agent));
                }
            }
            Box::new(agent)
        } else if mode == Mode::FlanneldUdp {
            Box::new(RealFlanneld::start(node.clone(), net))
        } else {
            let member: AnyMember = if mode == Mode::KernelHostGw {
                Box::new(KernelHostGw::join(node.clone(), net))
            } else {
                Box::new(KernelVxlan::join(node.clone(), net))
            };
            flannel_rules::install(&member, means.iptables);
            member
        };
        self.all.push(member);
    }
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
