//! What changes under a running agent: it follows, and keeps its subnet.

#![cfg(test)]

use std::net::SocketAddrV4;

use flannel_tests::metrics::sample;
use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::tcp;
use rstest::rstest;

/// The pods reach each other again, without anybody being restarted.
fn recovers(pair: &Pair<impl Member>) {
    pair.pod1.reaches(&pair.pod2);
    pair.pod2.reaches(&pair.pod1);
}

#[test]
fn an_uplink_with_another_address_is_published_and_the_subnet_kept() {
    let pair = Pair::of_agents();
    let (node, subnet) = (pair.one.node(), pair.one.subnet());
    let (old, new) = (node.address(), "172.30.0.99");
    node.exec(&format!("ip address del {old}/24 dev {}", Node::UPLINK));
    node.exec(&format!("ip address add {new}/24 dev {}", Node::UPLINK));
    let key = pair.net.lease_key(subnet);
    eventually("the lease names the new address", SOON, || {
        pair.lab
            .etcd()
            .get(&key)
            .is_some_and(|lease| lease.contains(new))
    });
    recovers(&pair);
    assert_eq!(pair.lab.etcd().leases(&pair.net).len(), 2);
    // What was connected from the old address was given up at once.
    let log = pair.one.log();
    assert!(!log.contains("no answer in"), "{log}");
}

#[rstest]
fn an_uplink_that_goes_down_and_comes_back_forwards_again(
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
) {
    let pair = Pair::new(mix);
    let (node, subnet) = (pair.one.node(), pair.one.subnet());
    node.exec(&format!("ip link set {} down", Node::UPLINK));
    assert_eq!(
        pair.pod1.ping(pair.pod2.address()).count(1).send().received,
        0
    );
    node.exec(&format!("ip link set {} up", Node::UPLINK));
    recovers(&pair);
    assert_eq!(pair.one.subnet(), subnet);
}

#[test]
fn a_smaller_mtu_of_the_uplink_reaches_device_and_subnet_file() {
    let pair = Pair::of_agents();
    let node = pair.one.node();
    node.exec(&format!("ip link set {} mtu 1400", Node::UPLINK));
    eventually("the subnet file says 1350", SOON, || {
        pair.one
            .daemon()
            .subnet_env()
            .is_some_and(|env| env.mtu == 1350)
    });
    let device = node.exec("ip link show dev flannel.1");
    assert!(device.contains("mtu 1350"), "{device}");
    recovers(&pair);
    let report = pair
        .pod1
        .ping(pair.pod2.address())
        .whole(1400)
        .count(1)
        .told();
    assert_eq!(report.too_big, Some(1350), "{}", report.text);
}

#[test]
fn a_deleted_device_comes_back_with_its_mac() {
    let pair = Pair::of_agents();
    let node = pair.one.node();
    let before = node.exec("ip -brief link show dev flannel.1");
    let mac = before.split_whitespace().nth(2).expect("a MAC");
    node.exec("ip link delete dev flannel.1");
    recovers(&pair);
    let after = node.exec("ip -brief link show dev flannel.1");
    assert!(after.contains(mac), "{before} {after}");
}

#[rstest]
fn an_end_of_the_device_that_was_set_down_comes_up_again(
    #[values("flannel.1", "flgro.1")] device: &str,
) {
    let pair = Pair::of_agents();
    let node = pair.one.node();
    node.exec(&format!("ip link set {device} down"));
    // Pings need neither end: they are taken where they go in.
    eventually("it is up", SOON, || {
        !node
            .exec(&format!("ip link show dev {device} up"))
            .is_empty()
    });
    recovers(&pair);
    for way in pair.both_ways() {
        let server = tcp::Server::on(way.server);
        let to = SocketAddrV4::new(way.server.address(), server.port());
        server.exchange(way.client, to, 1 << 20);
    }
}

#[test]
fn a_removed_address_and_route_come_back() {
    let pair = Pair::of_agents();
    let node = pair.one.node();
    let (address, route) = (
        node.exec("ip -o -4 address show dev flannel.1"),
        node.exec("ip route show dev flannel.1"),
    );
    node.exec("ip address flush dev flannel.1");
    node.exec("ip route flush dev flannel.1");
    eventually("address and route are as before", SOON, || {
        node.exec("ip -o -4 address show dev flannel.1") == address
            && node.exec("ip route show dev flannel.1") == route
    });
    recovers(&pair);
}

/// How many peers' ways the kernel was asked for since the agent's start.
fn look_ups(agent: &Agent) -> u64 {
    sample(agent, "flannel_ebpf_next_hop_lookups_total").expect("a count")
}

/// With thousands of peers a look at the way to each is not free, and pods come and go all the time.
#[test]
fn pods_that_come_cost_no_look_at_the_way_to_each_peer() {
    const PEERS: u64 = 50;
    const PODS: u64 = 8;
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    for n in 100..100 + PEERS {
        let lease = format!(
            r#"{{"PublicIP":"172.30.0.{n}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{n:02x}"}}}}"#
        );
        let key = format!("{}/subnets/10.244.{n}.0-24", net.prefix);
        lab.etcd().put(&key, &lease);
    }
    let agent = Agent::start(lab.node("one"), &net);
    let hooked = || agent.log().matches("attach pod_tx").count() as u64;
    // The first makes the bridge, which has an address and a route.
    let mut pods = vec![Pod::on(&agent, "pod0")];
    eventually("its port is met", SOON, || hooked() == 1);

    let before = look_ups(&agent);
    for n in 1..=PODS {
        pods.push(Pod::on(&agent, &format!("pod{n}")));
        // One at a time, so that each is a reconcile of its own.
        eventually("its port is met", SOON, || hooked() == n + 1);
    }
    // Every half minute all are looked up anyway.
    let after = look_ups(&agent);
    assert!(after - before < PEERS * PODS / 2, "{before} to {after}");

    // Behind such a look the next one is not near.
    eventually("the look of every half minute", 4 * SOON, || {
        look_ups(&agent) >= after + PEERS
    });
    let after = look_ups(&agent);
    agent.exec("ip route add 172.30.0.100/32 via 172.30.0.101");
    eventually("a route is a reason", SOON, || {
        look_ups(&agent) >= after + PEERS
    });
}
