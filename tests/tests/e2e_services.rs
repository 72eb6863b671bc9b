//! kube-proxy's rules and policy beside us: everything that takes the stack passes netfilter as it does with
//! real flannel, whether bridged packets do, too (br_netfilter), or not.

use std::net::{Ipv4Addr, SocketAddrV4};

use flannel_tests::iptables::Iptables;
use flannel_tests::kube_proxy::Service;
use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::{flannel_rules, tcp, udp};
use rstest::rstest;

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// `pod2` as the only endpoint of a service, known to both nodes; FORWARD drops by policy.
fn serve(pair: &Pair, iptables: Iptables, br_netfilter: bool) -> (tcp::Server, Service) {
    let server = tcp::Server::on(&pair.pod2);
    let endpoint = SocketAddrV4::new(pair.pod2.address(), server.port());
    let service = Service::new(CLUSTER_IP, 80, vec![endpoint]).node_port(30_080);
    for member in [&pair.one, &pair.two] {
        member.node().br_netfilter(br_netfilter);
        service.install(member.node(), iptables, &pair.net.cidr);
        flannel_rules::forward(member, iptables);
    }
    (server, service)
}

/// A pod of the second node answers, and sees a pod of the first as itself and the first node as its VTEP.
#[track_caller]
fn cluster_ip_works(pair: &Pair, server: &tcp::Server, service: SocketAddrV4) {
    let transfer = server.exchange(&pair.pod1, service, 1 << 20);
    assert_eq!(transfer.client.ip(), pair.pod1.address());
    // A process of the node chose its address before DNAT: kube-proxy masquerades to the VTEP's.
    let transfer = server.exchange(pair.one.node(), service, 1 << 16);
    assert_eq!(transfer.client.ip(), pair.one.vtep());
    let server = udp::Server::on_port(&pair.pod2, server.port());
    let client = server.exchange(&pair.pod1, service, 8192);
    assert_eq!(client.ip(), pair.pod1.address());
}

#[rstest]
fn a_cluster_ip_leads_to_a_pod_of_another_node(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
    #[values(Iptables::Nft, Iptables::Legacy)] iptables: Iptables,
    #[values(true, false)] br_netfilter: bool,
) {
    let pair = Pair::new(mix);
    let (server, service) = serve(&pair, iptables, br_netfilter);
    cluster_ip_works(&pair, &server, service.address());
}

#[rstest]
fn a_node_port_leads_from_outside_to_a_pod_of_another_node(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
) {
    let pair = Pair::new(mix);
    let outside = pair.lab.outside();
    let (server, _service) = serve(&pair, Iptables::Nft, true);
    let to = SocketAddrV4::new(pair.one.node().address(), 30_080);
    let transfer = server.exchange(&outside, to, 1 << 20);
    assert_eq!(transfer.client.ip(), pair.one.vtep());
}

/// kube-proxy's other mode: a table of its own, with maps.
#[rstest]
fn nftables_rules_lead_to_a_pod_of_another_node(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
    #[values(true, false)] br_netfilter: bool,
) {
    let pair = Pair::new(mix);
    let outside = pair.lab.outside();
    let server = tcp::Server::on(&pair.pod2);
    let endpoint = SocketAddrV4::new(pair.pod2.address(), server.port());
    let service = Service::new(CLUSTER_IP, 80, vec![endpoint]).node_port(30_080);
    for member in [&pair.one, &pair.two] {
        member.node().br_netfilter(br_netfilter);
        service.install_nftables(member.node(), &pair.net.cidr);
    }
    cluster_ip_works(&pair, &server, service.address());
    let to = SocketAddrV4::new(pair.one.node().address(), 30_080);
    let transfer = server.exchange(&outside, to, 1 << 20);
    assert_eq!(transfer.client.ip(), pair.one.vtep());
}

#[rstest]
fn a_drop_rule_stops_a_flow_at_either_node_and_its_removal_lets_it_go_on(
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
    #[values(true, false)] br_netfilter: bool,
) {
    let pair = Pair::new(mix);
    let (from, to) = (pair.pod1.address(), pair.pod2.address());
    for member in [&pair.one, &pair.two] {
        let node = member.node();
        node.br_netfilter(br_netfilter);
        node.exec(&format!(
            "iptables-nft -I FORWARD -s {from} -d {to} -j DROP"
        ));
        assert_eq!(pair.pod1.ping(to).count(2).send().received, 0);
        node.exec(&format!(
            "iptables-nft -D FORWARD -s {from} -d {to} -j DROP"
        ));
        pair.pod1.ping(to).succeeds();
    }
}

#[rstest]
fn forward_policy_drop_stops_the_overlay_until_a_rule_accepts_it(
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
) {
    let pair = Pair::of_daemons(mix, &["--iptables-forward-rules=false"]);
    pair.one.node().exec("iptables -P FORWARD DROP");
    assert_eq!(
        pair.pod1.ping(pair.pod2.address()).count(2).send().received,
        0
    );
    flannel_rules::forward(&pair.one, Iptables::Nft);
    pair.pod1.ping(pair.pod2.address()).succeeds();
}
