//! The verified fast path between real pods: what becomes fast, what never does, what ends it.

#![cfg(test)]

use std::net::Ipv4Addr;

use flannel_common::program::Program::{OverlayRx, PodRx, PodTx};
use flannel_common::reason::Reason;
use flannel_tests::bpftool::count;
use flannel_tests::fast_path::{
    agents, agents_of, conntrack_is_content, fast_both_ways, fast_udp, goes_on_without_its_agent,
    looked_again, obeys_a_drop_rule, pair_of, pinned, proven_tcp, received, sent, talk_tcp,
    talk_udp, to, was_fast,
};
use flannel_tests::iptables::Iptables;
use flannel_tests::kube_proxy::Service;
use flannel_tests::lab::Options;
use flannel_tests::netns::Netns;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::{flannel_rules, sweep, talk, tcp, udp};
use rstest::rstest;

fn udp_backend() -> Network {
    Network::udp("/coreos.com/network", "10.244.0.0/16")
}

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

#[rstest]
#[case::at_the_ports(&[])]
#[case::at_the_bridge(&["--pod-hook=bridge"])]
#[case::without_proof(&["--fast-path=always"])]
fn flows_become_fast_in_both_directions(#[case] flags: &[&str]) {
    let pair = agents(Options::default(), flags);
    fast_both_ways(&pair, received);
}

#[test]
fn switched_off_nothing_is_fast() {
    let pair = agents(Options::default(), &["--fast-path=off"]);
    for agent in [&pair.one, &pair.two] {
        looked_again(agent);
        for program in [PodTx, PodRx] {
            assert_eq!(pinned(agent, program), <[String; 0]>::default());
        }
    }
    talk_tcp(&pair.pod1, &pair.pod2).rounds(50);
    assert_eq!(sent(&pair.one) + received(&pair.one), 0);
}

/// Conntrack on both nodes keeps a true picture: established, assured, nothing invalid.
#[test]
fn conntrack_sees_a_fast_flow_established_and_assured() {
    let pair = agents(Options::default(), &[]);
    for agent in [&pair.one, &pair.two] {
        // kube-proxy's rule; and without a rule that asks, conntrack does not look at all.
        let rule = "FORWARD -m conntrack --ctstate INVALID -j DROP";
        agent.node().exec(&format!("iptables-nft -I {rule}"));
    }
    let mut talk = talk_tcp(&pair.pod1, &pair.pod2);
    talk.rounds(500);
    for agent in [&pair.one, &pair.two] {
        assert!(sent(agent) > 400);
        conntrack_is_content(agent.node(), talk.port());
    }
    talk.close();
}

#[rstest]
#[case::whole(Wire::Whole)]
#[case::segmented(Wire::Segmented)]
fn bulk_arrives_whole(#[case] wire: Wire) {
    let pair = agents(
        Options {
            wire,
            ..Options::default()
        },
        &[],
    );
    let server = tcp::Server::on(&pair.pod2);
    server.exchange(&pair.pod1, to(&pair.pod2, server.port()), 16 << 20);
    assert!(sent(&pair.one) > 0 && received(&pair.two) > 0);
    if wire == Wire::Segmented {
        let merged = count(&pair.two, OverlayRx, Reason::FastRxGro);
        assert!(merged > 0, "no packet went to the pod behind GRO");
    }
}

/// On the client's node the flow is translated: it must never skip the stack there.
#[rstest]
fn a_translated_flow_is_never_fast(
    #[values(vxlan(), udp_backend())] net: Network,
    #[values("--pod-hook=port", "--pod-hook=bridge")] hook: &str,
    #[values(true, false)] br_netfilter: bool,
) {
    let pair = agents_of(net, Options::default(), &[hook]);
    let server = tcp::Server::on(&pair.pod2);
    let cluster_ip = Ipv4Addr::new(10, 96, 0, 10);
    let service = Service::new(cluster_ip, 80, vec![to(&pair.pod2, server.port())]);
    for agent in [&pair.one, &pair.two] {
        agent.node().br_netfilter(br_netfilter);
        service.install(agent.node(), Iptables::Nft, &pair.net.cidr);
        flannel_rules::forward(agent, Iptables::Nft);
    }
    let mut tcp = talk::Tcp::open(&server, &pair.pod1, service.address());
    tcp.rounds(100);
    let datagrams = udp::Server::on_port(&pair.pod2, server.port());
    talk::Udp::open(datagrams, &pair.pod1, service.address()).rounds(100);
    assert_eq!((sent(&pair.one), received(&pair.one)), (0, 0));
    tcp.close();
}

#[rstest]
fn a_drop_rule_stops_a_fast_flow_and_its_removal_lets_it_go_on(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(vxlan(), udp_backend())] net: Network,
) {
    let pair = pair_of(kind, net, Options::default(), &[]);
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    talk.rounds(50);
    was_fast(&pair.one, Some((0, 0)), 0);
    obeys_a_drop_rule(&talk, pair.two.node(), &pair.pod1, &pair.pod2);
}

#[test]
fn a_closed_connection_leaves_no_live_entry() {
    let pair = agents(Options::default(), &[]);
    let mut talk = talk_tcp(&pair.pod1, &pair.pod2);
    talk.rounds(50);
    talk.close();
    for agent in [&pair.one, &pair.two] {
        let live = proven_tcp(agent);
        assert!(live.is_empty(), "{live:?}");
    }
}

/// The address is another pod's at once: the running flow must reach that one, not the grave.
#[rstest]
fn a_pod_that_takes_over_an_address_gets_its_flows(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let pair = pair_of(kind, vxlan(), Options::default(), &[]);
    let talk = fast_udp(&pair);
    let [_, port] = talk.ports();
    let address = pair.pod2.address();
    pair.pod2.delete(&pair.two);
    let heir = Netns::create(&format!("{}-heir", sweep::unique_name()));
    let gateway = Ipv4Addr::from(u32::from(pair.two.vtep()) + 1);
    pair.two.node().ip_batch(&[
        format!(
            "link add heir type veth peer name eth0 netns {}",
            heir.name()
        ),
        "link set heir master cni0 up".to_owned(),
    ]);
    heir.run(&format!("ip addr add {address}/24 dev eth0"));
    heir.run("ip link set eth0 up");
    heir.run(&format!("ip route add default via {gateway}"));
    // Announces itself, as the CNI plugin does.
    heir.run(&format!("ping -c 1 -W 15 {gateway}"));
    let talk = talk.moved_to(udp::Server::on_port(&heir, port));
    eventually("the flow reaches the new pod", SOON, || talk.round());
    talk.rounds(50);
}

#[test]
fn more_flows_than_the_table_holds_all_get_through() {
    let pair = agents(Options::default(), &["--flow-entries=8192"]);
    let server = udp::Server::on(&pair.pod2);
    let to = to(&pair.pod2, server.port());
    for _ in 0..10_000 {
        server.exchange(&pair.pod1, to, 1);
    }
}

#[test]
fn flows_go_on_when_an_agent_is_killed_and_comes_back() {
    goes_on_without_its_agent(&mut agents(Options::default(), &[]));
}
