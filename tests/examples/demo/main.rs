//! `cargo xtask demo`: the main job on one machine. Two nodes as network namespaces, a real etcd, an
//! agent on each, pods by the ordinary CNI plugins; then what an operator looks at.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "as in the tests' library: what fails here is to fail loudly"
)]

mod screen;
mod show;

use std::process::ExitCode;

use flannel_tests::prelude::*;
use flannel_tests::supervise;

use screen::{note, step};

fn main() -> ExitCode {
    supervise::run(demo)
}

fn demo() {
    step("Two nodes on one wire, and an etcd");
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let (one, two) = (lab.node("node1"), lab.node("node2"));
    note(&format!(
        "node1 {}, node2 {}, etcd {}",
        one.address(),
        two.address(),
        lab.etcd().url()
    ));
    show::etcd(&lab, "/coreos.com/network/config");

    step("An agent on each node takes a lease");
    let mut one = Agent::start(one, &net);
    let two = Agent::start(two, &net);
    show::leases(&lab, &net);
    show::subnet_env(&one);

    step("Pods, put there by the CNI plugins bridge and host-local");
    let (client, server) = (Pod::on(&one, "client"), Pod::on(&two, "server"));
    note(&format!(
        "client {} on node1, server {} on node2",
        client.address(),
        server.address()
    ));

    step("What the kernel has: one route, a veth, and no vxlan device");
    show::kernel(&one, &net);

    step("The map that says where the pods of node2 are");
    show::peers(&one);

    step("A ping from pod to pod");
    client.reaches(&server);
    show::ping(&client, &server);

    step("Three seconds of TCP");
    show::throughput(&lab, &client, &server);

    step("What the programs on node1 counted");
    show::counters(&one);

    step("kill -9 of the agent on node1: packets go on");
    one.kill();
    show::ping(&client, &server);

    step("Taking everything down");
    drop((client, server, one, two, lab));
    note("namespaces, links, maps and programs are gone");
}
