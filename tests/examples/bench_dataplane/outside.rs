//! Pod to a server outside the cluster: our source NAT beside iptables' MASQUERADE, on a node with and without
//! kube-proxy's rules, which have conntrack look at every packet whoever translates.

use std::sync::Arc;

use flannel_tests::prelude::*;

use crate::goals::Goal;
use crate::job::Traffic;
use crate::mode::Mode;
use crate::plan::{Condition, Cores, Group};
use crate::rounds::Series;
use crate::topology::{Beside, CLUSTER, Means, Members, Stage, service};

pub(crate) const TRAFFIC: [Traffic; 5] = [
    Traffic::TcpRr,
    Traffic::TcpCrr,
    Traffic::TcpConnect,
    Traffic::UdpRr,
    Traffic::TcpStream(1),
];

/// The agent's flag that translates.
pub(crate) const MASQUERADE: &str = "--ip-masq";

/// What is measured, in an order that builds the nodes once per [`Beside`].
pub(crate) fn groups() -> Vec<Group> {
    [Beside::Outside, Beside::OutsideAndKubeProxy]
        .into_iter()
        .flat_map(|beside| [group(beside, 1), group(beside, 100_000)])
        .collect()
}

/// Of that, what `--quick` has time for.
pub(crate) fn quick() -> Group {
    group(Beside::Outside, 1)
}

fn group(beside: Beside, flows: u32) -> Group {
    Group {
        condition: Condition {
            beside,
            ..Condition::USUAL
        },
        cores: Cores::One,
        flows,
        traffic: TRAFFIC.to_vec(),
    }
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
pub(crate) fn build(lab: &Lab, mode: Mode, beside: Beside, means: &Means) -> Stage {
    let name = format!("{}{}", mode.name(), beside as u8);
    let node = Arc::new(lab.node(&name));
    let server = Arc::new(lab.node(&format!("{name}out")));
    lab.cable(&node, &server);
    let nodes = [node.clone(), server.clone()];
    if mode == Mode::Bare {
        return Stage::new(mode, nodes, Members::default(), Vec::new());
    }
    if beside == Beside::OutsideAndKubeProxy {
        service().install(&*node, means.iptables, CLUSTER);
    }
    let net = lab.network(Network::vxlan(&format!("/bench/{name}"), CLUSTER));
    let mut members = Members::default();
    members.join(mode, &node, &net, &[MASQUERADE], means);
    let pod = Pod::on(&members.all[0], "pod1");
    eventually("the pod reaches the server", SOON, || {
        pod.ping(server.address()).count(1).lossless()
    });
    Stage::new(mode, nodes, members, vec![pod])
}
