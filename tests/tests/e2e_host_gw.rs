//! The host-gw backend: case F2 of flannel's functional tests, and what happens to its routes.

#![cfg(test)]

use std::net::Ipv4Addr;
use std::process::Output;
use std::sync::Arc;

use flannel_tests::agent::{Daemon, command};
use flannel_tests::member::free_subnets;
use flannel_tests::metrics::sample;
use flannel_tests::netns::output;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::start;
use flannel_tests::{tcp, udp};
use rstest::rstest;

fn lab() -> (Lab, Network) {
    let lab = Lab::new();
    let net = lab.network(Network::host_gw("/coreos.com/network", "10.244.0.0/16"));
    (lab, net)
}

/// Both ways, every kind of packet that fits into the uplink.
fn talk(one: &Pod, two: &Pod) {
    one.reaches(two);
    two.reaches(one);
    assert_eq!(one.ping(two.address()).whole(1500).succeeds().ttl, Some(62));
    udp::exchange(one, two, two.address(), 8192);
    let server = tcp::Server::on(two);
    let to = std::net::SocketAddrV4::new(two.address(), server.port());
    server.exchange(one, to, 1 << 20);
}

/// The routes to `subnet`, one a line.
fn routes(on: &impl Host, subnet: impl std::fmt::Display) -> String {
    on.exec(&format!("ip route show {subnet}"))
        .trim()
        .to_owned()
}

fn route_leads_to(on: &impl Host, subnet: impl std::fmt::Display, via: Ipv4Addr) {
    let subnet = subnet.to_string();
    eventually(format!("{subnet} via {via}"), SOON, || {
        let found = routes(on, &subnet);
        found.lines().count() == 1 && found.contains(&format!("via {via} dev eth0"))
    });
}

fn status(agent: &Agent) -> Output {
    let node = agent.node();
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let state = format!("--state-dir={}", node.state_dir().display());
    output(&mut command(node, &["status", &bpffs, &state]))
}

#[rstest]
fn f2_two_nodes_ping_each_other(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let (lab, net) = lab();
    let one = start(kind, lab.node("one"), &net, &[]);
    let two = start(kind, lab.node("two"), &net, &[]);
    talk(&Pod::on(&one, "pod1"), &Pod::on(&two, "pod2"));

    assert_eq!(one.subnet_env().mtu, 1500);
    assert!(one.try_exec("ip link show flannel.1").stdout.is_empty());
    let value = lab.etcd().get(&net.lease_key(one.subnet()));
    let expected = format!(
        r#"{{"PublicIP":"{}","PublicIPv6":null,"BackendType":"host-gw"}}"#,
        one.node().address()
    );
    assert_eq!(value, Some(expected));
    // Host to pod: with the node's own address, as flannel does it.
    one.ping(two.subnet().address(1)).succeeds();
}

#[test]
fn a_node_that_ran_flanneld_keeps_subnet_and_connections() {
    let (lab, net) = lab();
    let old = RealFlanneld::start(lab.node("one"), &net);
    let peer = RealFlanneld::start(lab.node("two"), &net);
    old.follow_leases();
    let (pod1, pod2) = (Pod::on(&old, "pod1"), Pod::on(&peer, "pod2"));
    pod1.reaches(&pod2);
    let subnet = old.subnet();
    let flow = udp::Flow::start(&pod1, &pod2, pod2.address());

    let new = Agent::start(old.stop(), &net);
    assert_eq!(new.subnet(), subnet);
    flow.finish().assert_complete();
    let route = routes(&new, peer.subnet());
    assert!(route.contains("proto 102"), "not adopted: {route}");
    assert_eq!(route.lines().count(), 1);
}

#[rstest]
fn rt1_a_changed_gateway_replaces_the_route(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let (lab, net) = lab();
    let one = start(kind, lab.node("one"), &net, &[]);
    let [subnet] = free_subnets(&net, &[&one]);
    let key = &net.lease_key(subnet);
    for via in ["172.30.0.77", "172.30.0.78"] {
        let lease = format!(r#"{{"PublicIP":"{via}","BackendType":"host-gw"}}"#);
        lab.etcd().put(key, &lease);
        route_leads_to(&one, subnet, via.parse().expect("an address"));
    }
    lab.etcd().delete(key);
    eventually("the route of a lease that ended goes", SOON, || {
        routes(&one, subnet).is_empty()
    });
}

#[rstest]
fn lost_routes_come_back(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let (lab, net) = lab();
    let one = start(kind, lab.node("one"), &net, &[]);
    let two = start(kind, lab.node("two"), &net, &[]);
    let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&two, "pod2"));
    pod1.reaches(&pod2);
    let (subnet, via) = (two.subnet(), two.node().address());

    one.exec(&format!("ip route del {subnet}"));
    route_leads_to(&one, subnet, via);

    // The kernel drops all routes of a link that goes down.
    one.exec("ip link set eth0 down");
    assert_eq!(routes(&one, subnet), "");
    one.exec("ip link set eth0 up");
    route_leads_to(&one, subnet, via);
    pod1.reaches(&pod2);
}

#[rstest]
fn the_routes_stay_when_the_agent_ends(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let (lab, net) = lab();
    let mut one = start(kind, lab.node("one"), &net, &[]);
    let two = start(kind, lab.node("two"), &net, &[]);
    let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&two, "pod2"));
    pod1.reaches(&pod2);
    let flow = udp::Flow::start(&pod1, &pod2, pod2.address());
    assert!(one.terminate().success());
    one.restart();
    one.kill();
    flow.finish().assert_complete();
}

#[rstest]
fn a_public_ip_that_is_not_local_is_refused(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let (lab, net) = lab();
    let node = Arc::new(lab.node("one"));
    let flags = ["--public-ip=198.51.100.7"];
    let (status, log) = match kind {
        Kind::Flanneld => {
            let mut flanneld = RealFlanneld::spawn(node, &net, &flags);
            (flanneld.process().wait(SOON), flanneld.log())
        }
        _ => {
            let mut daemon = Daemon::spawn(&node, &net, &flags);
            (daemon.process().wait(SOON), daemon.log())
        }
    };
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("198.51.100.7"), "{log}");
    assert!(lab.etcd().leases(&net).is_empty());
}

/// Somebody else's mistake: an address that is on no link of this node.
#[rstest]
fn a_peer_on_no_link_disturbs_nobody_else(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let (lab, net) = lab();
    let one = start(kind, lab.node("one"), &net, &[]);
    let two = start(kind, lab.node("two"), &net, &[]);
    let [wrong, third] = free_subnets(&net, &[&one, &two]);
    let lease = |via: &str| format!(r#"{{"PublicIP":"{via}","BackendType":"host-gw"}}"#);
    lab.etcd()
        .put(&net.lease_key(wrong), &lease("198.51.100.9"));
    lab.etcd().put(&net.lease_key(third), &lease("172.30.0.77"));
    route_leads_to(&one, third, Ipv4Addr::new(172, 30, 0, 77));
    assert_eq!(routes(&one, wrong), "");
    if let Some(agent) = one.agent() {
        says_so_and_ends_no_proofs(agent, wrong);
    }
    talk(&Pod::on(&one, "pod1"), &Pod::on(&two, "pod2"));
}

fn says_so_and_ends_no_proofs(agent: &Agent, wrong: impl std::fmt::Display) {
    let named = format!("{wrong}: Network is unreachable");
    eventually("status says so", SOON, || {
        let status = status(agent);
        status.status.code() == Some(1) && String::from_utf8_lossy(&status.stdout).contains(&named)
    });
    let counted = |action| {
        let name =
            format!("flannel_ebpf_reconcile_actions_total{{action=\"{action}\",outcome=\"done\"}}");
        sample::<u64>(agent, &name).unwrap_or(0)
    };
    let looks = || sample::<u64>(agent, "flannel_ebpf_reconcile_duration_seconds_count");
    let (ended, before) = (counted("bump_epoch"), looks());
    // Any change of the node's makes the agent look at everything.
    agent.exec("ip link add other type veth peer name rehto");
    eventually("it has looked again", SOON, || looks() > before);
    assert_eq!(counted("bump_epoch"), ended, "proofs of flows ended");
    assert_eq!(agent.log().matches(&named).count(), 1, "{}", agent.log());
}
