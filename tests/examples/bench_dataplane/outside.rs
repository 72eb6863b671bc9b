//! Pod to a server outside the cluster: our source NAT beside iptables' MASQUERADE, on a node with and without
//! kube-proxy's rules, which have conntrack look at every packet whoever translates.

use std::sync::Arc;

use flannel_tests::flannel_rules;
use flannel_tests::iptables::Iptables;
use flannel_tests::member::AnyMember;
use flannel_tests::prelude::*;
use flannel_tests::snat_table::SnatTable;

use crate::goals::Goal;
use crate::job::Traffic;
use crate::mode::Mode;
use crate::plan::{Condition, Cores, Group};
use crate::remote::Ends;
use crate::rounds::Series;
use crate::topology::{Beside, CLUSTER, Stage, service};

const TRAFFIC: [Traffic; 5] = [
    Traffic::TcpRr,
    Traffic::TcpCrr,
    Traffic::TcpConnect,
    Traffic::UdpRr,
    Traffic::TcpStream(1),
];

/// The dataplanes that differ on the way out.
pub(crate) const MODES: [Mode; 3] = [Mode::Bare, Mode::Kernel, Mode::Verified];

/// What is measured, in an order that builds the nodes once per [`Beside`].
pub(crate) fn groups() -> Vec<Group> {
    let group = |beside, flows| Group {
        condition: Condition {
            beside,
            ..Condition::USUAL
        },
        cores: Cores::One,
        flows,
        traffic: TRAFFIC.to_vec(),
    };
    [Beside::Outside, Beside::OutsideAndKubeProxy]
        .into_iter()
        .flat_map(|beside| [group(beside, 1), group(beside, 100_000)])
        .collect()
}

/// Times for what begins or waits for packets; nothing may be slower.
pub(crate) fn goal(series: &Series) -> Goal {
    match series.traffic {
        Traffic::TcpRr | Traffic::TcpCrr => Goal::AtMost(0.75),
        traffic if traffic.is_rate() => Goal::AtLeast(1.0),
        _ => Goal::AtMost(1.0),
    }
}

/// A node with a pod, and a cable to a server that is no part of the cluster.
pub(crate) fn build(lab: &Lab, mode: Mode, beside: Beside, iptables: Iptables) -> Stage {
    let name = format!("{}{}", mode.name(), beside as u8);
    let node = Arc::new(lab.node(&name));
    let server = Arc::new(lab.node(&format!("{name}out")));
    lab.cable(&node, &server);
    let nodes = [node.clone(), server.clone()];
    if mode == Mode::Bare {
        return Stage {
            mode,
            ends: Ends::start(node.netns(), server.netns(), server.address()),
            translated: None,
            nodes,
            _members: Vec::new(),
            _pods: Vec::new(),
        };
    }
    if beside == Beside::OutsideAndKubeProxy {
        service().install(&*node, iptables, CLUSTER);
    }
    let net = lab.network(Network::vxlan(&format!("/bench/{name}"), CLUSTER));
    let mut translated = None;
    let member: AnyMember = if let Some(flags) = mode.flags() {
        let flags: Vec<&str> = flags.iter().copied().chain(["--ip-masq"]).collect();
        let agent = Agent::start_with(node, &net, &flags);
        translated = Some(SnatTable::of(&agent));
        Box::new(agent)
    } else {
        let kernel = KernelVxlan::join(node, &net);
        kernel.follow_leases();
        flannel_rules::install(&kernel, iptables);
        Box::new(kernel)
    };
    let pod = Pod::on(&member, "pod1");
    eventually("the pod reaches the server", SOON, || {
        pod.ping(server.address()).count(1).lossless()
    });
    pod.sysctl("net.ipv4.ip_local_port_range", "1024 65535");
    Stage {
        mode,
        ends: Ends::start(pod.netns(), server.netns(), server.address()),
        translated,
        nodes,
        _members: vec![member],
        _pods: vec![pod],
    }
}
