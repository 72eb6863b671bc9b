//! The world outside and the sniffer are what tests of SNAT rest on: shown with the kernel's own masquerading.

#![cfg(test)]

use flannel_tests::iptables::Iptables;
use flannel_tests::prelude::*;
use flannel_tests::{flannel_rules, tcp, udp};

/// A node with real flannel's dataplane, and a pod on it.
fn node() -> (Lab, KernelVxlan, Pod, Outside) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let node = KernelVxlan::join(lab.node("one"), &net);
    let pod = Pod::on(&node, "pod");
    let outside = lab.outside();
    (lab, node, pod, outside)
}

#[test]
fn what_the_kernel_masquerades_does_not_show() {
    let (_lab, node, pod, outside) = node();
    flannel_rules::masquerade(&node, Iptables::Nft);
    let sniffer = Sniffer::on(node.node(), "10.244.0.0/16");
    let server = tcp::Server::on(&outside);
    let seen = server.exchange(&pod, outside.at(server.port()), 1 << 20);
    assert_eq!(seen.client.ip(), node.node().address());
    let seen = udp::exchange(&pod, &outside, outside.address(), 6000);
    assert_eq!(seen.ip(), node.node().address());
    pod.ping(outside.address()).succeeds();
    assert!(sniffer.packets() > 0);
}

#[test]
fn a_packet_under_a_pods_address_is_seen() {
    let (_lab, node, pod, outside) = node();
    let sniffer = Sniffer::on(node.node(), "10.244.0.0/16");
    outside.routes_to("10.244.0.0/16", &node);
    // The sniffer forgets what it has told of, and nothing that comes after.
    let _ = pod.ping(outside.address()).count(1).send();
    let sight = sniffer.wait_for_leak();
    assert_eq!(
        (sight.source, sight.destination),
        (pod.address(), outside.address())
    );
}

#[test]
fn a_connection_from_outside_to_a_pod_is_no_leak_where_it_is_allowed() {
    let (_lab, node, pod, outside) = node();
    outside.routes_to(&node.subnet().to_string(), &node);
    let sniffer = Sniffer::on(node.node(), "10.244.0.0/16");
    let server = tcp::Server::on(&pod);
    sniffer.allow(pod.address(), server.port());
    let to = std::net::SocketAddrV4::new(pod.address(), server.port());
    let seen = server.exchange(&outside, to, 1 << 16);
    assert_eq!(seen.client.ip(), outside.address());
}

#[test]
fn the_narrow_leg_tells_its_mtu() {
    let (_lab, node, pod, outside) = node();
    flannel_rules::masquerade(&node, Iptables::Nft);
    let _sniffer = Sniffer::on(node.node(), "10.244.0.0/16");
    outside.narrow(1300);
    let report = pod.ping(outside.address()).count(1).whole(1400).told();
    assert_eq!(
        (report.received, report.too_big),
        (0, Some(1300)),
        "{}",
        report.text
    );
    pod.ping(outside.address()).whole(1300).succeeds();
}
