//! CNI's bandwidth plugin beside our clsact filters, on kernels without tcx: its ingress qdisc and clsact stand in one place.

#![cfg(test)]

use flannel_tests::agent::{Daemon, http_get, http_status};
use flannel_tests::bandwidth;
use flannel_tests::fast_path::hooked;
use flannel_tests::flannel_rules;
use flannel_tests::iptables::Iptables;
use flannel_tests::no_tcx;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::start;
use rstest::rstest;

/// An agent whose kernel has no tcx.
fn agent(lab: &Lab, net: &Network, name: &str) -> Agent {
    let node = lab.node(name);
    let wrapper = no_tcx::wrapper(&node);
    Agent::start_under(&wrapper, node, net, &[])
}

fn looks(agent: &Agent) -> u64 {
    let metrics = http_get(agent.node(), agent.daemon().health_port(), "/metrics").unwrap();
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("flannel_ebpf_reconcile_duration_seconds_count "));
    count.unwrap().parse().unwrap()
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
    let attached = bandwidth::add(&one, &bandwidth::bridge(&one), &pod);
    eventually("the agent has seen the new port", SOON, || {
        looks(&one) > before
    });
    let port = bandwidth::port(&attached);
    bandwidth::add(&one, &bandwidth::bandwidth(&attached), &pod);
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

/// With what shapes by way of an ifb, say.
#[rstest]
fn an_ingress_qdisc_on_another_device_stops_nobody(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = lab.node("one");
    node.exec("ip link add eth1 type veth peer name far1");
    node.exec("ip addr add 198.51.100.1/24 dev eth1");
    node.exec("ip link set eth1 up");
    node.exec("tc qdisc add dev eth1 handle ffff: ingress");
    let wrapper = no_tcx::wrapper(&node);
    let one: AnyDaemon = match kind {
        Kind::Ours => Box::new(Agent::start_under(&wrapper, node, &net, &["--ip-masq"])),
        _ => start(kind, node, &net, &["--ip-masq"]),
    };
    let two = start(kind, lab.node("two"), &net, &["--ip-masq"]);
    let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&two, "pod2"));
    pod1.reaches(&pod2);
    pod2.reaches(&pod1);
    if let Some(agent) = one.agent() {
        let filters = agent.exec("tc filter show dev eth0 egress");
        assert!(filters.contains("uplink_tx"), "{filters}");
        assert!(agent.log().contains("eth1 has an ingress qdisc"));
    }
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
    // The tunnel works, and whoever counts on the rest is told that there is none of it.
    eventually("there is a subnet", SOON, || daemon.subnet_env().is_some());
    let filters = node.exec("tc filter show dev eth0 ingress");
    assert!(filters.contains("uplink_rx"), "{filters}");
    let port = daemon.health_port();
    eventually("it is not ready, and says why", SOON, || {
        let text = http_get(&node, port, "/readyz");
        text.is_some_and(|text| text.contains("leaves under their own addresses"))
    });
    drop(daemon);
    // What is only looked at on its way in finds room.
    let agent = {
        let wrapper = no_tcx::wrapper(&node);
        Agent::start_under(&wrapper, node, &net, &[])
    };
    let filters = agent.exec("tc filter show dev eth0 ingress");
    assert!(filters.contains("uplink_rx"), "{filters}");
}

#[test]
fn flannelds_masquerading_stays_until_programs_translate() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let old = KernelVxlan::join(lab.node("one"), &net);
    flannel_rules::masquerade(&old, Iptables::Nft);
    let node = old.stop();
    node.exec("tc qdisc add dev eth0 ingress");
    let wrapper = no_tcx::wrapper(&node);
    let daemon = Daemon::spawn_under(&wrapper, &node, &net, &["--ip-masq"]);
    let port = daemon.health_port();
    eventually("it is not ready, and says why", SOON, || {
        let text = http_get(&*node, port, "/readyz");
        text.is_some_and(|text| text.contains("leaves under their own addresses"))
    });
    let masquerades = || {
        let rules = node.exec("iptables-nft -t nat -S");
        rules.contains("FLANNEL-POSTRTG")
    };
    assert!(masquerades());

    node.exec("tc qdisc del dev eth0 ingress");
    // Any change makes the agent look.
    node.exec("ip link add other type veth peer name rehto");
    eventually("programs have the place", SOON, || !masquerades());
    eventually("it is ready", SOON, || {
        http_status(&*node, port, "/readyz") == Some(200)
    });
    let filters = node.exec("tc filter show dev eth0 egress");
    assert!(filters.contains("uplink_tx"), "{filters}");
}
