//! Two nodes with a pod each, of any mix of kinds: the stage of most scenarios.

use std::sync::Arc;

use crate::agent::Agent;
use crate::cold::forget_everybody;
use crate::host::Host as _;
use crate::kernel_host_gw::KernelHostGw;
use crate::kernel_vxlan::KernelVxlan;
use crate::lab::{Lab, Options};
use crate::member::{AnyMember, Member};
use crate::network::{Backend, Network};
use crate::node::Node;
use crate::pod::Pod;
use crate::real_flanneld::RealFlanneld;
use crate::udp::Flow;
use crate::with_daemon::{AnyDaemon, start};

/// Who does flannel's work on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// flannel-agent.
    Ours,
    /// What flanneld sets up, by hand.
    Kernel,
    /// Real flanneld: the control.
    Flanneld,
}

/// Two nodes that know each other.
#[derive(Debug)]
pub struct Pair<A = AnyMember, B = A> {
    pub lab: Lab,
    pub net: Network,
    pub one: A,
    pub two: B,
    pub pod1: Pod,
    pub pod2: Pod,
}

/// Which kinds a pair is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    Ours,
    /// The first node is ours, the second a kernel vxlan node.
    Mixed,
    /// What flanneld sets up, by hand, on both.
    Kernel,
    /// Real flanneld on both: the control.
    Flanneld,
    OursAndFlanneld,
    FlanneldAndOurs,
}

impl Mix {
    /// Of the first node and the second.
    pub fn kinds(self) -> (Kind, Kind) {
        match self {
            Self::Ours => (Kind::Ours, Kind::Ours),
            Self::Mixed => (Kind::Ours, Kind::Kernel),
            Self::Kernel => (Kind::Kernel, Kind::Kernel),
            Self::Flanneld => (Kind::Flanneld, Kind::Flanneld),
            Self::OursAndFlanneld => (Kind::Ours, Kind::Flanneld),
            Self::FlanneldAndOurs => (Kind::Flanneld, Kind::Ours),
        }
    }
}

impl Pair {
    pub fn new(mix: Mix) -> Self {
        Self::with(mix, Options::default())
    }

    /// Builds the lab, starts both members and waits until their pods reach each other.
    pub fn with(mix: Mix, options: Options) -> Self {
        let (one, two) = mix.kinds();
        let (lab, net) = lab_with_vxlan(options);
        let one = join(one, lab.node("one"), &net);
        let two = join(two, lab.node("two"), &net);
        Self::of(lab, net, one, two)
    }
}

impl Pair<AnyDaemon> {
    /// Two nodes of either kind, for tests that stop and start their daemons.
    pub fn of_daemons(mix: Mix, flags: &[&str]) -> Self {
        let (lab, net) = lab_with_vxlan(Options::default());
        Self::of_daemons_in(lab, net, mix, flags)
    }

    /// The same in a network of the test's own.
    pub fn of_daemons_in(lab: Lab, net: Network, mix: Mix, flags: &[&str]) -> Self {
        let (one, two) = mix.kinds();
        let one = start(one, lab.node("one"), &net, flags);
        let two = start(two, lab.node("two"), &net, flags);
        Self::of(lab, net, one, two)
    }
}

impl Pair<Agent> {
    /// Two nodes of ours, for tests that stop and start the agents.
    pub fn of_agents() -> Self {
        let (lab, net) = lab_with_vxlan(Options::default());
        let one = Agent::start(lab.node("one"), &net);
        let two = Agent::start(lab.node("two"), &net);
        Self::of(lab, net, one, two)
    }
}

impl Pair<Agent, KernelVxlan> {
    /// The same with a peer that has real flannel's dataplane.
    pub fn of_agent_and_kernel() -> Self {
        let (lab, net) = lab_with_vxlan(Options::default());
        let one = Agent::start(lab.node("one"), &net);
        let two = KernelVxlan::join(lab.node("two"), &net);
        Self::of(lab, net, one, two)
    }
}

impl<A: Member, B: Member> Pair<A, B> {
    /// Gives each of two members a pod and waits until these reach each other. Then all four forget their neighbours: nodes
    /// start cold.
    pub fn of(lab: Lab, net: Network, one: A, two: B) -> Self {
        one.follow_leases();
        two.follow_leases();
        let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&two, "pod2"));
        pod1.reaches(&pod2);
        pod2.reaches(&pod1);
        one.settle(pod1.port());
        two.settle(pod2.port());
        for host in [one.node().netns(), two.node().netns()] {
            forget_everybody(host);
        }
        for pod in [&pod1, &pod2] {
            forget_everybody(pod);
        }
        Self {
            lab,
            net,
            one,
            two,
            pod1,
            pod2,
        }
    }

    /// Client and server in one direction and in the other, each with its node.
    pub fn both_ways(&self) -> [Way<'_>; 2] {
        let there = Way {
            from: &self.one,
            to: &self.two,
            client: &self.pod1,
            server: &self.pod2,
        };
        [there, there.back()]
    }

    /// A numbered datagram each millisecond in both directions.
    pub fn flows(&self) -> [Flow; 2] {
        self.both_ways()
            .map(|way| Flow::start(way.client, way.server, way.server.address()))
    }
}

/// One direction between the members of a pair.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    pub from: &'a dyn Member,
    pub to: &'a dyn Member,
    pub client: &'a Pod,
    pub server: &'a Pod,
}

impl Way<'_> {
    fn back(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
            client: self.server,
            server: self.client,
        }
    }
}

fn lab_with_vxlan(options: Options) -> (Lab, Network) {
    let lab = Lab::with(options);
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    (lab, net)
}

/// Makes `node` a member of `net`.
pub fn join(kind: Kind, node: impl Into<Arc<Node>>, net: &Network) -> AnyMember {
    match kind {
        Kind::Ours => Box::new(Agent::start(node, net)),
        Kind::Flanneld => Box::new(RealFlanneld::start(node, net)),
        Kind::Kernel => match net.backend {
            Backend::HostGw => Box::new(KernelHostGw::join(node, net)),
            _ => Box::new(KernelVxlan::join(node, net)),
        },
    }
}
