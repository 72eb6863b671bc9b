//! The way to a peer is the one that the kernel takes for exactly such a packet: by source, rules and tables. And a peer to
//! which there is none is named.

#![cfg(test)]

use std::net::Ipv4Addr;

use flannel_common::program::Program::{OverlayTx, PodTx};
use flannel_common::reason::Reason;
use flannel_tests::agent::command;
use flannel_tests::bpftool::count;
use flannel_tests::cold::{First, forget_neighbours};
use flannel_tests::fast_path::{fast_both_ways, fast_udp_of, hooked, received, talk_udp};
use flannel_tests::metrics::sample;
use flannel_tests::netns::output;
use flannel_tests::pair::{Kind, Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::ways::{carries_everything, host_gw, ipip, join, vxlan};
use rstest::rstest;

/// Two network cards: the main table's default route leads to the second, where nobody is; what comes from the node's address
/// has a table of its own.
fn two_cards(lab: &Lab) -> Node {
    let node = lab.node("one");
    let router = "172.30.0.254";
    lab.router();
    node.ip_batch(&[
        "link add eth1 type veth peer name nowhere".to_owned(),
        "addr add 203.0.113.2/24 dev eth1".to_owned(),
        "link set eth1 up".to_owned(),
        "route replace default via 203.0.113.1 dev eth1 onlink".to_owned(),
        "route add 172.30.0.0/24 dev eth0 table 100".to_owned(),
        format!("route add default via {router} dev eth0 table 100"),
        format!("rule add from {} lookup 100", node.address()),
    ]);
    node
}

fn pair(net: Network, mix: Mix, flags: &[&str]) -> Pair {
    let lab = Lab::new();
    let net = lab.network(net);
    let (one, two) = mix.kinds();
    let one = join(one, two_cards(&lab), &net, flags);
    let two = join(two, lab.node_behind_router("two"), &net, flags);
    Pair::of(lab, net, one, two)
}

fn agents(flags: &[&str]) -> Pair<Agent> {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let one = Agent::start_with(two_cards(&lab), &net, flags);
    let two = Agent::start_with(lab.node_behind_router("two"), &net, flags);
    let pair = Pair::of(lab, net, one, two);
    hooked(&pair.one);
    hooked(&pair.two);
    pair
}

#[rstest]
fn by_the_table_for_the_nodes_address(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
    #[values(vxlan(), vxlan().direct_routing())] net: Network,
) {
    let pair = pair(net, mix, &[]);
    carries_everything(&pair);
    let forget = || forget_neighbours(pair.one.node());
    First::Datagram.reaches(forget, &pair.pod1, &pair.pod2);
}

#[rstest]
fn with_another_fast_path(
    #[values("--fast-path=always", "--fast-path=off", "--pod-hook=bridge")] flag: &str,
) {
    carries_everything(&pair(vxlan(), Mix::Ours, &[flag]));
}

#[test]
fn past_the_stack() {
    fast_both_ways(&agents(&[]), received).close();
}

/// Without a tunnel it is the pod's address that counts: neighbours are found in the main table.
#[rstest]
fn to_neighbours(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(vxlan(), vxlan().direct_routing(), host_gw())] net: Network,
) {
    let lab = Lab::new();
    let net = lab.network(net);
    let one = join(kind, two_cards(&lab), &net, &[]);
    let two = join(kind, lab.node("two"), &net, &[]);
    carries_everything(&Pair::of(lab, net, one, two));
}

/// A rule that comes and goes under a running flow past the stack.
#[test]
fn a_fast_flow_follows_a_rule() {
    let pair = agents(&[]);
    let node = pair.one.node();
    let talk = fast_udp_of(&[&pair.one, &pair.two], &pair.pod1, &pair.pod2);
    let other = pair.lab.other_gateway();
    node.exec(&format!(
        "ip route add default via {} dev eth0 table 200",
        other.address
    ));
    let filter = format!("udp port 8472 and ether dst {}", other.mac);
    let capture = Capture::start(node, Node::UPLINK, &filter);
    node.exec(&format!(
        "ip rule add pref 10 from {} lookup 200",
        node.address()
    ));
    eventually("the tunnel goes by the other gateway", SOON, || {
        talk.rounds(10);
        capture.packets(0).len() > 5
    });
}

/// Whoever routes a peer into nothing means it: the node was hacked, say.
#[rstest]
#[case::blackhole(Kind::Ours, "blackhole")]
#[case::unreachable(Kind::Ours, "unreachable")]
#[case::prohibit(Kind::Ours, "prohibit")]
#[case::as_with_flannel(Kind::Flanneld, "blackhole")]
fn a_peer_without_a_way_gets_nothing(#[case] kind: Kind, #[case] route: &str) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let one = join(kind, lab.node("one"), &net, &[]);
    let two = join(kind, lab.node("two"), &net, &[]);
    let pair = Pair::of(lab, net, one, two);
    let (node, peer) = (pair.one.node(), pair.two.node().address());
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    talk.rounds(20);
    node.exec(&format!("ip route add {route} {peer}"));
    let capture = Capture::start(node, Node::UPLINK, &format!("dst host {peer}"));
    eventually("nothing goes there any more", SOON, || {
        let before = capture.packets(0).len();
        let silent = (0..2).all(|_| !talk.round());
        silent && capture.packets(0).len() == before
    });
    node.exec(&format!("ip route del {route} {peer}"));
    eventually("the flow goes on", SOON, || talk.round());
}

#[test]
fn what_has_no_way_is_counted() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let [one, two] = ["one", "two"].map(|name| Agent::start(lab.node(name), &net));
    let pair = Pair::of(lab, net, one, two);
    hooked(&pair.one);
    let peer = pair.two.node().address();
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    talk.rounds(20);
    pair.one.exec(&format!("ip route add blackhole {peer}"));
    eventually("the reason counts", SOON, || {
        talk.round();
        let of = |program| count(&pair.one, program, Reason::NoRoute);
        of(OverlayTx) + of(PodTx) > 0
    });
}

fn doctor(node: &Node) -> String {
    let flags = [
        "doctor".to_owned(),
        format!("--bpffs={}", node.bpffs().display()),
        format!("--etcd-endpoints={}", node.etcd()),
        format!("--iface={}", Node::UPLINK),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let output = output(&mut command(node, &flags));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn peers(agent: &Agent, state: &str) -> i64 {
    sample(agent, &format!("flannel_ebpf_peers{{state=\"{state}\"}}")).unwrap_or(0)
}

/// Of each kind of peer that cannot be reached: in the log, in the metrics, in `doctor`.
#[rstest]
#[case::no_route("route del default", None, "no_route", "ENETUNREACH")]
#[case::forbidden(
    "route add prohibit 172.30.12.0/24",
    Some("route del prohibit 172.30.12.0/24"),
    "no_route",
    "EACCES"
)]
#[case::not_on_the_link(
    "route add 172.30.12.0/24 dev eth0",
    Some("route del 172.30.12.0/24 dev eth0"),
    "no_answer",
    "takes it for a neighbour on eth0"
)]
#[case::dead_gateway(
    "route add 172.30.12.0/24 via 172.30.0.99",
    Some("route del 172.30.12.0/24 via 172.30.0.99"),
    "no_answer",
    "the gateway 172.30.0.99 does not answer on eth0"
)]
fn a_peer_that_cannot_be_reached_is_named(
    #[case] trouble: &str,
    #[case] repair: Option<&str>,
    #[case] state: &str,
    #[case] why: &str,
    #[values(vxlan(), ipip())] net: Network,
) {
    let lab = Lab::new();
    let net = lab.network(net);
    let one = Agent::start(lab.node("one"), &net);
    let two = Agent::start(lab.node_behind_router("two"), &net);
    let peer = two.node().address();
    assert_eq!(peer, Ipv4Addr::new(172, 30, 12, 12));
    let pair = Pair::of(lab, net, one, two);
    let node = pair.one.node();
    assert_eq!(
        (peers(&pair.one, "tunnel"), peers(&pair.one, state)),
        (1, 0)
    );
    let content = doctor(node);
    assert!(content.contains("routes lead to 1 peers"), "{content}");

    node.exec(&format!("ip {trouble}"));
    let named = format!("the peer {peer} cannot be reached");
    eventually("the agent names it", SOON, || {
        // That nobody answers shows when somebody asks; and that it showed is seen at the next look.
        let _ = pair.pod1.ping(pair.pod2.address()).count(1).send();
        node.exec("ip route replace 192.0.2.0/24 dev lo");
        node.exec("ip route del 192.0.2.0/24 dev lo");
        let log = pair.one.log();
        log.contains(&named) && log.contains(why) && peers(&pair.one, state) == 1
    });
    let text = doctor(node);
    assert!(text.contains(&named) && text.contains(why), "{text}");

    match repair {
        Some(repair) => node.exec(&format!("ip {repair}")),
        None => node.exec("ip route add default via 172.30.0.254"),
    };
    pair.pod1.reaches(&pair.pod2);
    eventually("the agent says that it is over", SOON, || {
        let over = format!("there is a way to the peer {peer} again");
        pair.one.log().contains(&over) && peers(&pair.one, "tunnel") == 1
    });
}
