//! Services beside the fast path: every answer is right, and no flow that is translated on a node is fast there.

use std::net::{Ipv4Addr, SocketAddrV4};

use flannel_tests::fast_path::{fast, pair_of, proven, talk_udp, to, was_fast};
use flannel_tests::iptables::Iptables;
use flannel_tests::kube_proxy::Service;
use flannel_tests::lab::Options;
use flannel_tests::pair::{Kind, Pair};
use flannel_tests::prelude::*;
use flannel_tests::{flannel_rules, talk, tcp, udp};
use rstest::rstest;

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const NODE_PORT: u16 = 30_080;

/// Both nodes know of one endpoint.
fn serve(pair: &Pair<AnyDaemon>, endpoint: SocketAddrV4, br_netfilter: bool) -> Service {
    let service = Service::new(CLUSTER_IP, 80, vec![endpoint]).node_port(NODE_PORT);
    for agent in [&pair.one, &pair.two] {
        agent.node().br_netfilter(br_netfilter);
        service.install(agent.node(), Iptables::Nft, &pair.net.cidr);
        flannel_rules::forward(agent, Iptables::Nft);
    }
    service
}

#[track_caller]
fn nothing_was_fast(daemon: &AnyDaemon) {
    if let Some(agent) = daemon.agent() {
        assert_eq!(fast(daemon), Some((0, 0)));
        assert_eq!(proven(agent), <[serde_json::Value; 0]>::default());
    }
}

fn pair(kind: Kind, hook: &str) -> Pair<AnyDaemon> {
    let net = Network::vxlan("/coreos.com/network", "10.244.0.0/16");
    pair_of(kind, net, Options::default(), &[hook])
}

/// The node in the middle translates both ends. The endpoint's node sees a plain flow, and may make it fast.
#[rstest]
#[case::at_the_port_ours(Kind::Ours, "--pod-hook=port")]
#[case::at_the_bridge_ours(Kind::Ours, "--pod-hook=bridge")]
#[case::flanneld(Kind::Flanneld, "")]
fn a_node_port_is_never_fast_where_it_is_translated(
    #[case] kind: Kind,
    #[case] hook: &str,
    #[values(true, false)] br_netfilter: bool,
) {
    let pair = pair(kind, hook);
    let outside = pair.lab.outside();
    let server = tcp::Server::on(&pair.pod2);
    serve(&pair, to(&pair.pod2, server.port()), br_netfilter);
    let to = SocketAddrV4::new(pair.one.node().address(), NODE_PORT);
    let mut tcp = talk::Tcp::open(&server, &outside, to);
    tcp.rounds(100);
    let datagrams = udp::Server::on_port(&pair.pod2, server.port());
    talk::Udp::open(datagrams, &outside, to).rounds(100);
    nothing_was_fast(&pair.one);
    tcp.close();
    assert_eq!(
        server.exchange(&outside, to, 1 << 20).client.ip(),
        pair.one.vtep()
    );
    nothing_was_fast(&pair.one);
}

/// A pod asks for its own service and gets itself. A plain flow of the same pod is fast all the while.
#[rstest]
#[case::at_the_port_ours(Kind::Ours, "--pod-hook=port")]
#[case::at_the_bridge_ours(Kind::Ours, "--pod-hook=bridge")]
#[case::flanneld(Kind::Flanneld, "")]
fn a_hairpin_is_never_fast(
    #[case] kind: Kind,
    #[case] hook: &str,
    #[values(true, false)] br_netfilter: bool,
) {
    let pair = pair(kind, hook);
    let server = tcp::Server::on(&pair.pod1);
    let service = serve(&pair, to(&pair.pod1, server.port()), br_netfilter);
    let mut hairpin = talk::Tcp::open(&server, &pair.pod1, service.address());
    hairpin.rounds(100);
    let seen = server.exchange(&pair.pod1, service.address(), 1 << 20);
    assert_ne!(seen.client.ip(), pair.pod1.address(), "masqueraded");
    nothing_was_fast(&pair.one);

    let plain = talk_udp(&pair.pod1, &pair.pod2);
    plain.rounds(100);
    was_fast(&pair.one, Some((0, 0)), 80);
    let before = fast(&pair.one);
    hairpin.rounds(100);
    assert_eq!(fast(&pair.one), before);
    hairpin.close();
}

/// The same with the rules of kube-proxy's nftables mode, and a service that another node's pod answers.
#[rstest]
#[case::at_the_port_ours(Kind::Ours, "--pod-hook=port")]
#[case::at_the_bridge_ours(Kind::Ours, "--pod-hook=bridge")]
#[case::flanneld(Kind::Flanneld, "")]
fn what_nftables_translates_is_never_fast(
    #[case] kind: Kind,
    #[case] hook: &str,
    #[values(true, false)] br_netfilter: bool,
) {
    let pair = pair(kind, hook);
    let outside = pair.lab.outside();
    let server = tcp::Server::on(&pair.pod2);
    let endpoint = to(&pair.pod2, server.port());
    let service = Service::new(CLUSTER_IP, 80, vec![endpoint]).node_port(NODE_PORT);
    for agent in [&pair.one, &pair.two] {
        agent.node().br_netfilter(br_netfilter);
        service.install_nftables(agent.node(), &pair.net.cidr);
    }
    let node_port = SocketAddrV4::new(pair.one.node().address(), NODE_PORT);
    let mut from_pod = talk::Tcp::open(&server, &pair.pod1, service.address());
    from_pod.rounds(100);
    let mut from_outside = talk::Tcp::open(&server, &outside, node_port);
    from_outside.rounds(100);
    // At the bridge one direction alone may be proven: br_netfilter has translated it before. Both never are.
    assert!(fast(&pair.one).is_none_or(|packets| packets == (0, 0)));

    talk_udp(&pair.pod1, &pair.pod2).rounds(100);
    was_fast(&pair.one, Some((0, 0)), 80);
    let before = fast(&pair.one);
    from_pod.rounds(100);
    from_outside.rounds(100);
    assert_eq!(fast(&pair.one), before);
    from_pod.close();
    from_outside.close();
}
