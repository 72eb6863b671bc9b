//! The verified fast path without a tunnel: host-gw, and DirectRouting beside vxlan.

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4};

use flannel_common::program::Program::{DirectRx, OverlayRx, UplinkRx};
use flannel_common::reason::Reason;
use flannel_tests::bpftool::count;
use flannel_tests::fast_path::{
    fast_both_ways, fast_udp_of, goes_on_without_its_agent, hooked, obeys_a_drop_rule, sent,
    talk_tcp, talk_udp, to,
};
use flannel_tests::iptables::Iptables;
use flannel_tests::kube_proxy::Service;
use flannel_tests::lab::Options;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use flannel_tests::{fast_path, flannel_rules, talk, tcp, udp};
use rstest::rstest;

fn host_gw() -> Network {
    Network::host_gw("/coreos.com/network", "10.244.0.0/16")
}

fn direct_routing() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16").direct_routing()
}

fn agents(net: Network, flags: &[&str]) -> Pair<Agent> {
    agents_on(Options::default(), net, flags)
}

fn agents_on(options: Options, net: Network, flags: &[&str]) -> Pair<Agent> {
    let pair = fast_path::agents_of(net, options, flags);
    for (agent, pod, peer) in [
        (&pair.one, &pair.pod2, &pair.two),
        (&pair.two, &pair.pod1, &pair.one),
    ] {
        goes_without_tunnel(agent, pod, peer);
    }
    pair
}

/// The default route leads out of eth0 as well, by another gateway.
fn goes_without_tunnel(agent: &Agent, pod: &Pod, peer: &Agent) {
    let words = format!("via {} dev eth0", peer.node().address());
    eventually("the route of a neighbour", SOON, || {
        let way = agent.exec(&format!("ip route get {}", pod.address()));
        way.contains(&words)
    });
}

fn fast_in(agent: &Agent) -> u64 {
    count(agent, DirectRx, Reason::FastRx)
}

#[rstest]
#[case::host_gw(host_gw(), &[])]
#[case::host_gw_at_the_bridge(host_gw(), &["--pod-hook=bridge"])]
#[case::host_gw_without_proof(host_gw(), &["--fast-path=always"])]
#[case::direct_routing(direct_routing(), &[])]
fn flows_become_fast_in_both_directions(#[case] net: Network, #[case] flags: &[&str]) {
    let pair = agents(net, flags);
    let tunnel = Capture::start(pair.one.node(), Node::UPLINK, "udp port 8472");
    let tcp = fast_both_ways(&pair, fast_in);
    assert_eq!(tunnel.finish().len(), 0, "something took the tunnel");
    tcp.close();
}

#[rstest]
#[case::whole(Wire::Whole)]
#[case::segmented(Wire::Segmented)]
fn bulk_arrives_whole(#[case] wire: Wire) {
    let options = Options {
        wire,
        ..Options::default()
    };
    let pair = agents_on(options, host_gw(), &[]);
    let server = tcp::Server::on(&pair.pod2);
    server.exchange(&pair.pod1, to(&pair.pod2, server.port()), 16 << 20);
    assert!(sent(&pair.one) > 0 && fast_in(&pair.two) > 0);
}

#[test]
fn with_a_node_that_runs_flanneld() {
    let lab = Lab::new();
    let net = lab.network(host_gw());
    let ours = Agent::start(lab.node("one"), &net);
    let theirs = RealFlanneld::start(lab.node("two"), &net);
    let pair = Pair::of(lab, net, ours, theirs);
    hooked(&pair.one);
    let mut talk = talk_tcp(&pair.pod1, &pair.pod2);
    talk.rounds(200);
    assert!(sent(&pair.one) > 150 && fast_in(&pair.one) > 150);
    talk.close();
}

/// Neighbours without the tunnel, the others by it: both are fast, each its own way.
#[test]
fn direct_routing_mixes_both_ways() {
    let lab = Lab::new();
    let net = lab.network(direct_routing());
    let one = Agent::start(lab.node("one"), &net);
    let two = Agent::start(lab.node("two"), &net);
    let far = Agent::start(lab.node_behind_router("far"), &net);
    let [pod1, pod2, pod3] = [&one, &two, &far].map(|member| Pod::on(member, "pod"));
    for agent in [&one, &two, &far] {
        hooked(agent);
    }
    goes_without_tunnel(&one, &pod2, &two);
    goes_without_tunnel(&two, &pod1, &one);
    pod1.reaches(&pod2);
    pod1.reaches(&pod3);

    talk_udp(&pod1, &pod2).rounds(100);
    let (near, direct) = (sent(&one), fast_in(&one));
    assert!(near > 80 && direct > 80, "{near} and {direct}");
    let tunnelled =
        || count(&one, UplinkRx, Reason::FastRx) + count(&one, OverlayRx, Reason::FastRxGro);
    assert_eq!(tunnelled(), 0);
    talk_udp(&pod1, &pod3).rounds(100);
    assert!(sent(&one) > near + 80 && tunnelled() > 80);
    assert_eq!(fast_in(&one), direct);
}

/// The neighbour is behind a router from one moment to the next, and back: a running flow follows.
#[test]
fn a_fast_flow_follows_a_route() {
    let pair = agents(direct_routing(), &[]);
    let talk = fast_udp_of(&[&pair.one, &pair.two], &pair.pod1, &pair.pod2);
    talk.rounds(100);
    let _router = pair.lab.router();
    let neighbour = pair.two.node().address();
    pair.one
        .exec(&format!("ip route add {neighbour}/32 via 172.30.0.254"));
    eventually("the tunnel takes over", SOON, || {
        let way = pair
            .one
            .exec(&format!("ip route get {}", pair.pod2.address()));
        way.contains("dev flannel.1")
    });
    let tunnel = Capture::start(pair.one.node(), Node::UPLINK, "udp port 8472");
    eventually("the flow goes on", SOON, || talk.round());
    talk.rounds(50);
    // Something took the tunnel.
    tunnel.packets(1);
    pair.one.exec(&format!("ip route del {neighbour}/32"));
    goes_without_tunnel(&pair.one, &pair.pod2, &pair.two);
    let before = fast_in(&pair.two);
    talk.rounds(100);
    assert!(fast_in(&pair.two) > before);
}

/// RT1 with traffic: the node of a running fast flow gets another address.
#[test]
fn a_fast_flow_follows_a_changed_gateway() {
    let pair = agents(host_gw(), &[]);
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    talk.rounds(100);
    assert!(sent(&pair.one) > 50);
    let (old, new) = (pair.two.node().address(), Ipv4Addr::new(172, 30, 0, 77));
    pair.two.node().ip_batch(&[
        format!("addr add {new}/24 dev eth0"),
        format!("addr del {old}/24 dev eth0"),
        format!("addr add {new}/24 dev eth0"),
        "route replace default via 172.30.0.254".to_owned(),
    ]);
    eventually("the route follows", SOON, || {
        let route = pair
            .one
            .exec(&format!("ip route show {}", pair.two.subnet()));
        route.contains(&format!("via {new} "))
    });
    eventually("the flow goes on", SOON, || talk.round());
    let before = sent(&pair.one);
    talk.rounds(100);
    assert!(sent(&pair.one) > before, "it is fast again");
}

#[test]
fn a_drop_rule_stops_a_fast_flow_and_its_removal_lets_it_go_on() {
    let pair = agents(host_gw(), &[]);
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    talk.rounds(50);
    assert!(sent(&pair.one) > 0);
    // On the sender's node: the packets that went past the stack must not renew the proof.
    obeys_a_drop_rule(&talk, pair.one.node(), &pair.pod1, &pair.pod2);
}

#[test]
fn a_translated_flow_is_never_fast() {
    let pair = agents(host_gw(), &[]);
    let server = tcp::Server::on(&pair.pod2);
    let cluster_ip = Ipv4Addr::new(10, 96, 0, 10);
    let service = Service::new(cluster_ip, 80, vec![to(&pair.pod2, server.port())]);
    for agent in [&pair.one, &pair.two] {
        service.install(agent.node(), Iptables::Nft, &pair.net.cidr);
        flannel_rules::forward(agent, Iptables::Nft);
    }
    let mut tcp = talk::Tcp::open(&server, &pair.pod1, service.address());
    tcp.rounds(100);
    assert_eq!((sent(&pair.one), fast_in(&pair.one)), (0, 0));
    tcp.close();
}

#[test]
fn flows_go_on_when_an_agent_is_killed_and_comes_back() {
    goes_on_without_its_agent(&mut agents(host_gw(), &[]));
}

/// Source NAT without a tunnel: the node's address outside, the pod's own inside.
#[test]
fn pods_reach_the_outside_as_their_node() {
    let lab = Lab::new();
    let net = lab.network(host_gw());
    let outside = lab.outside();
    let one = Agent::start_with(lab.node("one"), &net, &["--ip-masq"]);
    let two = Agent::start_with(lab.node("two"), &net, &["--ip-masq"]);
    let pair = Pair::of(lab, net, one, two);
    let filter = format!("src net {} and dst {}", pair.net.cidr, outside.address());
    let leaks = Capture::start(pair.one.node(), Node::UPLINK, &filter);
    let seen = udp::exchange(&pair.pod1, &outside, outside.address(), 100);
    assert_eq!(seen.ip(), pair.one.node().address());
    let server = tcp::Server::on(&outside);
    let address = SocketAddrV4::new(outside.address(), server.port());
    let seen = server.exchange(&pair.pod1, address, 1 << 20);
    assert_eq!(seen.client.ip(), pair.one.node().address());
    leaks.saw_nothing();

    hooked(&pair.one);
    let mut talk = talk_tcp(&pair.pod1, &pair.pod2);
    talk.rounds(100);
    assert!(sent(&pair.one) > 80 && fast_in(&pair.one) > 80);
    let seen = udp::exchange(&pair.pod1, &pair.pod2, pair.pod2.address(), 100);
    assert_eq!(seen.ip(), pair.pod1.address());
    talk.close();
    let reserved = "cat /proc/sys/net/ipv4/ip_local_reserved_ports";
    assert_eq!(pair.one.exec(reserved).trim(), "49152-65535");
}
