//! CNI's bandwidth plugin beside our clsact filters, on kernels without tcx: its ingress qdisc and clsact stand in one place.

#![cfg(test)]

use flannel_tests::agent::{Daemon, http_get};
use flannel_tests::cni::Conflist;
use flannel_tests::fast_path::hooked;
use flannel_tests::netns::Netns;
use flannel_tests::no_tcx;
use flannel_tests::prelude::*;
use serde_json::{Value, json};

/// An agent whose kernel has no tcx.
fn agent(lab: &Lab, net: &Network, name: &str) -> Agent {
    let node = lab.node(name);
    let wrapper = no_tcx::wrapper(&node);
    Agent::start_under(&wrapper, node, net, &[])
}

/// A network like flannel's, up to the pod's port.
fn bridge(agent: &Agent) -> Value {
    let env = agent.subnet_env();
    json!({
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "isDefaultGateway": true,
        "mtu": env.mtu,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": env.subnet().to_string()}]],
            "routes": [{"dst": env.network}],
        },
    })
}

/// 10 Mb/s both ways, for a pod that `bridge` has attached.
fn bandwidth(attached: &Value) -> Value {
    json!({
        "type": "bandwidth",
        "ingressRate": 10_000_000, "ingressBurst": 1_000_000,
        "egressRate": 10_000_000, "egressBurst": 1_000_000,
        "prevResult": attached,
    })
}

/// ADD of one plugin of a chain.
fn add(agent: &Agent, plugin: &Value, pod: &Netns) -> Value {
    let list = json!({"name": "shaped", "cniVersion": "0.3.1", "plugins": [plugin]});
    let file = agent.node().folder().join("shaped.conflist");
    std::fs::write(&file, list.to_string()).unwrap();
    Conflist::read(agent.node(), &file).add(agent.node(), "shaped", pod, &[])
}

fn looks(agent: &Agent) -> u64 {
    let metrics = http_get(agent.node(), agent.daemon().health_port(), "/metrics").unwrap();
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("flannel_ebpf_reconcile_duration_seconds_count "));
    count.unwrap().parse().unwrap()
}

fn interface(result: &Value) -> String {
    let all = result["interfaces"].as_array().unwrap().iter();
    let name = all
        .filter_map(|i| i["name"].as_str())
        .find(|name| name.starts_with("veth"));
    name.unwrap().to_owned()
}

/// However long the plugin takes: the agent sees the port before, and leaves it alone. And the one whose qdisc is there
/// keeps it.
#[test]
fn the_plugin_comes_first_and_keeps_its_place() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let (one, two) = (agent(&lab, &net, "one"), agent(&lab, &net, "two"));
    let far = Pod::on(&two, "far");
    let pod = one.node().pod_namespace("shaped");
    let before = looks(&one);
    let attached = add(&one, &bridge(&one), &pod);
    eventually("the agent has seen the new port", SOON, || {
        looks(&one) > before
    });
    let port = interface(&attached);
    add(&one, &bandwidth(&attached), &pod);
    let qdiscs = one.exec(&format!("tc qdisc show dev {port}"));
    assert!(
        qdiscs.contains("ingress") && qdiscs.contains("tbf"),
        "{qdiscs}"
    );

    // A pod that came later has its programs: nothing is left to do for the first.
    let plain = Pod::on(&one, "plain");
    hooked(&one);
    assert!(one.log().contains(&format!("{port} has an ingress qdisc")));
    let filters = one.exec(&format!("tc filter show dev {port} parent ffff:"));
    assert!(
        filters.contains("mirred") && !filters.contains("bpf"),
        "{filters}"
    );
    assert!(!one.log().contains("ERROR"), "{}", one.log());
    plain.reaches(&far);
    eventually("the shaped pod reaches the other node", SOON, || {
        pod.ping(far.address()).count(1).lossless()
    });
}

/// The kernel would take a filter for egress, and put it on ingress.
#[test]
fn an_uplink_with_an_ingress_qdisc_is_refused_with_advice() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = lab.node("one");
    node.exec("tc qdisc add dev eth0 ingress");
    let wrapper = no_tcx::wrapper(&node);
    let daemon = Daemon::spawn_under(&wrapper, &node, &net, &["--ip-masq"]);
    eventually("it says why", SOON, || {
        let log = daemon.log();
        log.contains("eth0 has an ingress qdisc") && log.contains("tc qdisc del dev eth0 ingress")
    });
    let filters = node.exec("tc filter show dev eth0 ingress");
    assert!(!filters.contains("uplink_tx"), "{filters}");
    drop(daemon);
    // What is only looked at on its way in finds room.
    let agent = {
        let wrapper = no_tcx::wrapper(&node);
        Agent::start_under(&wrapper, node, &net, &[])
    };
    let filters = agent.exec("tc filter show dev eth0 ingress");
    assert!(filters.contains("uplink_rx"), "{filters}");
}
