//! A node that ran flanneld becomes one of ours, and what a node of ours must never have.

use flannel_tests::agent::Daemon;
use flannel_tests::kernel_vxlan::{is_kernel_vxlan, mac};
use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;

#[test]
fn a_node_that_ran_flanneld_keeps_subnet_and_mac_so_that_peers_need_no_news() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let old = RealFlanneld::start(lab.node("one"), &net);
    let peer = RealFlanneld::start(lab.node("two"), &net);
    old.follow_leases();
    let (pod1, pod2) = (Pod::on(&old, "pod1"), Pod::on(&peer, "pod2"));
    pod1.reaches(&pod2);
    let (subnet, mac) = (old.subnet(), mac(&old));
    let lease = lab.etcd().get(&net.lease_key(subnet));

    let new = Agent::start(old.stop(), &net);
    assert_eq!(new.subnet(), subnet);
    assert!(!is_kernel_vxlan(&new, "flannel.1"));
    let link = new.exec("ip link show dev flannel.1");
    assert!(link.contains(&mac), "{link}");
    assert_eq!(lab.etcd().get(&net.lease_key(subnet)), lease);
    // The peer has not followed anything since.
    pod2.reaches(&pod1);
    pod1.ping(pod2.address()).succeeds();
}

#[test]
fn there_is_no_kernel_vxlan_device_and_no_netfilter_rule() {
    let pair = Pair::new(Mix::Ours);
    pair.pod1.ping(pair.pod2.address()).succeeds();
    for member in [&pair.one, &pair.two] {
        let node = member.node();
        assert_eq!(node.exec("ip -d link show type vxlan"), "");
        assert_eq!(node.exec("nft list ruleset"), "");
        let legacy = node.exec("iptables-legacy-save");
        assert!(!legacy.contains("-A "), "{legacy}");
    }
}

/// An agent that finds nothing on its search path calls neither iptables nor nft, nor anything else.
#[test]
fn the_agent_needs_no_other_program() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = lab.node("one");
    let empty = lab.folder().display();
    let mut daemon = Daemon::spawn_under(&format!("env PATH={empty}"), &node, &net, &[]);
    daemon.wait_until_ready(&node);
    assert!(!daemon.log().contains("No such file"), "{}", daemon.log());
    assert_eq!(daemon.process().terminate(SOON).code(), Some(0));
}

#[test]
fn the_device_looks_like_flannels() {
    let pair = Pair::new(Mix::Ours);
    let node = pair.one.node();
    let address = node.exec("ip -brief -4 addr show dev flannel.1");
    assert!(
        address.contains(&format!("{}/32", pair.one.vtep())),
        "{address}"
    );
    let link = node.exec("ip link show dev flannel.1");
    assert!(
        link.contains("mtu 1450") && link.contains("NOARP"),
        "{link}"
    );
    let route = node.exec(&format!("ip route get {}", pair.pod2.address()));
    assert!(
        route.contains("dev flannel.1") && route.contains(&format!("src {}", pair.one.vtep())),
        "{route}"
    );
}
