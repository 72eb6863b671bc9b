//! The CNI network that the agent writes, given to the real plugins; and a bridge that kept an old subnet.

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4};

use flannel_tests::cni::Conflist;
use flannel_tests::netns::Netns;
use flannel_tests::prelude::*;
use flannel_tests::tcp;

fn address(result: &serde_json::Value) -> Ipv4Addr {
    let text = result["ips"][0]["address"].as_str().expect("an address");
    text.split('/')
        .next()
        .and_then(|a| a.parse().ok())
        .expect("an IPv4 address")
}

fn with_cni(node: Node, net: &Network) -> (Agent, Conflist) {
    let folder = node.folder().join("etc/cni/net.d");
    let flag = format!("--cni-conf-dir={}", folder.display());
    let agent = Agent::start_with(node, net, &[&flag]);
    let network = Conflist::read(agent.node(), &folder.join("10-flannel.conflist"));
    (agent, network)
}

fn pod(agent: &Agent, network: &Conflist, name: &str, ports: &[(u16, u16)]) -> (Netns, Ipv4Addr) {
    let netns = agent.node().pod_namespace(name);
    let result = network.add(agent.node(), name, &netns, ports);
    (netns, address(&result))
}

#[test]
fn pods_of_the_written_network_reach_each_other() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let (one, network1) = with_cni(lab.node("one"), &net);
    let (two, network2) = with_cni(lab.node("two"), &net);
    let (pod1, address1) = pod(&one, &network1, "pod1", &[]);
    let (pod2, address2) = pod(&two, &network2, "pod2", &[(30080, 80)]);
    assert!(one.subnet().contains(address1) && two.subnet().contains(address2));
    assert!(pod2.exec("ip link show eth0").contains("mtu 1450"));
    eventually("pod1 reaches pod2", SOON, || {
        pod1.ping(address2).count(1).lossless()
    });
    pod2.ping(address1).whole(1450).succeeds();
    // portmap: from another node, by way of this node's own address.
    let server = tcp::Server::on_port(&pod2, 80);
    let published = SocketAddrV4::new(two.node().address(), 30080);
    server.exchange(one.node(), published, 1 << 16);
}

#[test]
fn a_smaller_uplink_is_followed_by_the_network() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let (one, _) = with_cni(lab.node("one"), &net);
    one.exec("ip link set eth0 mtu 1400");
    let file = one
        .node()
        .folder()
        .join("etc/cni/net.d/10-flannel.conflist");
    eventually("the network's MTU is 1350", SOON, || {
        let text = std::fs::read_to_string(&file).expect("it is never gone");
        let network: serde_json::Value = serde_json::from_str(&text).expect("it is always whole");
        network["plugins"][0]["mtu"] == 1350
    });
    assert_eq!(one.subnet_env().mtu, 1350);
}

#[test]
fn nothing_is_written_unless_asked_for() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let one = Agent::start(lab.node("one"), &net);
    assert!(!one.log().contains("conflist"), "{}", one.log());
}

#[test]
fn a_bridge_of_another_subnet_is_reported() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let one = Agent::start(lab.node("one"), &net);
    assert!(!one.log().contains("the bridge cni0"), "{}", one.log());
    one.exec("ip link add cni0 type bridge");
    one.exec("ip addr add 10.244.250.1/24 dev cni0");
    eventually("the bridge is named", SOON, || {
        let log = one.log();
        log.contains("10.244.250.1/24") && log.contains("ip link delete cni0")
    });
}
