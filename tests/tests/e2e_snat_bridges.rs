//! Answers that come in by a bridge: br_netfilter has shown them to conntrack, as they are on the wire, before any program of
//! ours sees them.

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4};

use flannel_common::program::Program::OutsideRx;
use flannel_common::reason::Reason;
use flannel_tests::bpftool::count;
use flannel_tests::fast_path::hooked;
use flannel_tests::lab::Lab;
use flannel_tests::netns::Netns;
use flannel_tests::outside::Outside;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::stage::CLUSTER;
use flannel_tests::with_daemon::{AnyDaemon, start};
use flannel_tests::{tcp, udp};
use rstest::rstest;

/// kube-proxy's.
const NO_INVALID: &[&str] = &["-A FORWARD -m conntrack --ctstate INVALID -j DROP"];
/// A network policy's, of a pod that may be asked nothing.
const ANSWERS_ONLY: &[&str] = &[
    "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    "-A FORWARD -i cni0 -j ACCEPT",
    "-A FORWARD -j DROP",
];

const CONTAINERS: &str = "172.17.0.0/16";
const DOCKER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);

fn vxlan(lab: &Lab) -> Network {
    lab.network(Network::vxlan("/coreos.com/network", CLUSTER))
}

/// As hypervisors have it: the card is a port, and the bridge has its address.
fn bridge_the_uplink(node: &Node, gateway: Ipv4Addr) {
    let address = node.address();
    node.ip_batch(&[
        "link add br0 type bridge".to_owned(),
        "link set br0 up".to_owned(),
        format!("addr del {address}/24 dev eth0"),
        "link set eth0 master br0".to_owned(),
        format!("addr add {address}/24 dev br0"),
        format!("route add default via {gateway} dev br0"),
    ]);
}

fn apply(rules: &[&str], node: &Node) {
    for rule in rules {
        node.exec(&format!("iptables -w {rule}"));
    }
}

/// Datagrams whole and in fragments, a stream, and what a router says about a packet.
fn talks_to_the_outside(pod: &Pod, outside: &Outside, seen_as: Ipv4Addr) {
    for size in [100, 3000, 100] {
        let seen = udp::exchange(pod, outside, outside.address(), size);
        assert_eq!(seen.ip(), seen_as);
    }
    let server = tcp::Server::on(outside);
    let seen = server.exchange(pod, outside.at(server.port()), 1 << 20);
    assert_eq!(seen.client.ip(), seen_as);
    outside.narrow(1300);
    let told = pod.ping(outside.address()).whole(1400).count(1).told();
    assert_eq!(told.too_big, Some(1300), "{}", told.text);
}

/// The first `--iface` is for nodes without the bridge: here it has no address, so that it is the next one's turn.
#[rstest]
fn the_uplink_is_a_bridge(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(NO_INVALID, ANSWERS_ONLY)] rules: &[&str],
) {
    let lab = Lab::new();
    let net = vxlan(&lab);
    let outside = lab.outside();
    let node = lab.node("one");
    node.br_netfilter(true);
    bridge_the_uplink(&node, Ipv4Addr::new(172, 30, 0, 254));
    let flags = ["--ip-masq", "--iface=eth0", "--iface=br0"];
    let one = start(kind, node, &net, &flags);
    let pod = Pod::on(&one, "pod");
    eventually("the pod reaches the server", SOON, || {
        pod.ping(outside.address()).count(1).lossless()
    });
    apply(rules, one.node());
    talks_to_the_outside(&pod, &outside, one.node().address());
    if let Some(agent) = one.agent() {
        hooked(agent);
        let server = tcp::Server::on(&outside);
        let to = outside.at(server.port());
        eventually("flows are proven all the same", SOON, || {
            server.exchange(&pod, to, 1 << 20);
            count(agent, OutsideRx, Reason::FastRx) > 0
        });
    }
}

/// Of a container that somebody else's bridge has on the node, as Docker does.
fn container(node: &Node) -> Netns {
    let netns = node.pod_namespace("container");
    node.ip_batch(&[
        "link add docker0 type bridge".to_owned(),
        format!("addr add {DOCKER}/16 dev docker0"),
        "link set docker0 up".to_owned(),
        format!(
            "link add vcontainer type veth peer name eth0 netns {}",
            netns.name()
        ),
        "link set vcontainer master docker0 up".to_owned(),
    ]);
    netns.ip_batch(&[
        format!("addr add {CONTAINER}/16 dev eth0"),
        "link set eth0 up".to_owned(),
        format!("route add default via {DOCKER}"),
    ]);
    node.exec(&format!(
        "iptables -w -t nat -A POSTROUTING -s {CONTAINERS} ! -o docker0 -j MASQUERADE"
    ));
    netns
}

/// As it is, and by a port that Docker publishes on the node.
#[rstest]
fn a_container_beside_the_pods_answers(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let lab = Lab::new();
    let net = vxlan(&lab);
    let node = lab.node("one");
    node.br_netfilter(true);
    let container = container(&node);
    let one: AnyDaemon = start(kind, node, &net, &["--ip-masq"]);
    apply(NO_INVALID, one.node());
    let pod = Pod::on(&one, "pod");
    eventually("the container answers", SOON, || {
        pod.ping(CONTAINER).count(1).lossless()
    });
    for size in [100, 3000, 100] {
        let seen = udp::exchange(&pod, &container, CONTAINER, size);
        assert_eq!(seen.ip(), DOCKER);
    }
    let server = tcp::Server::on(&container);
    one.node().exec(&format!(
        "iptables -w -t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to {CONTAINER}:{}",
        server.port()
    ));
    let published = SocketAddrV4::new(one.node().address(), 8080);
    for to in [SocketAddrV4::new(CONTAINER, server.port()), published] {
        let seen = server.exchange(&pod, to, 1 << 20);
        assert_eq!(seen.client.ip(), DOCKER);
    }
}
