//! Two nodes with a pod each, of any mix of kinds: the stage of most scenarios.

use crate::agent::Agent;
use crate::kernel_vxlan::KernelVxlan;
use crate::lab::{Lab, Options};
use crate::member::Member;
use crate::network::Network;
use crate::node::Node;
use crate::pod::Pod;

/// Who does flannel's work on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// flannel-agent.
    Ours,
    /// What flanneld sets up.
    Kernel,
}

/// A member of either kind.
pub type AnyMember = Box<dyn Member>;

/// Two nodes that know each other.
#[derive(Debug)]
pub struct Pair {
    pub lab: Lab,
    pub net: Network,
    pub one: AnyMember,
    pub two: AnyMember,
    pub pod1: Pod,
    pub pod2: Pod,
}

impl Pair {
    pub fn new(one: Kind, two: Kind) -> Self {
        Self::with(Options::default(), one, two)
    }

    /// Builds the lab, starts both members and waits until their pods reach each other.
    pub fn with(options: Options, one: Kind, two: Kind) -> Self {
        let lab = Lab::with(options);
        let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
        let one = join(one, lab.node("one"), &net);
        let two = join(two, lab.node("two"), &net);
        one.follow_leases();
        let (pod1, pod2) = (Pod::on(&*one, "pod1"), Pod::on(&*two, "pod2"));
        pod1.reaches(&pod2);
        Self {
            lab,
            net,
            one,
            two,
            pod1,
            pod2,
        }
    }
}

/// Makes `node` a member of `net`.
pub fn join(kind: Kind, node: Node, net: &Network) -> AnyMember {
    match kind {
        Kind::Ours => Box::new(Agent::start(node, net)),
        Kind::Kernel => Box::new(KernelVxlan::join(node, net)),
    }
}
