//! No neighbour is known: the first packet waits for one, and arrives.

#![cfg(test)]

use std::net::Ipv4Addr;

use flannel_tests::cold::{First, forget_everybody, forget_neighbours};
use flannel_tests::fast_path::{
    agents_of, fast_udp_of, gets_fast, hooked, hooked_if_ours, sent, to,
};
use flannel_tests::iptables::Iptables;
use flannel_tests::kube_proxy::Service;
use flannel_tests::lab::Options;
use flannel_tests::pair::{Kind, Mix, Pair, Way};
use flannel_tests::prelude::*;
use flannel_tests::stage::Stage;
use flannel_tests::ways::{host_gw, join, vxlan};
use flannel_tests::{flannel_rules, no_tcx, udp};
use rstest::rstest;

/// The second node on the same switch, or behind a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Neighbour,
    BehindRouter,
}

fn node_at(lab: &Lab, place: Place) -> Node {
    match place {
        Place::Neighbour => lab.node("two"),
        Place::BehindRouter => lab.node_behind_router("two"),
    }
}

fn pair(net: Network, mix: Mix, place: Place, flags: &[&str]) -> Pair {
    let lab = Lab::new();
    let net = lab.network(net);
    let (one, two) = mix.kinds();
    let one = join(one, lab.node("one"), &net, flags);
    let two = join(two, node_at(&lab, place), &net, flags);
    Pair::of(lab, net, one, two)
}

fn udp_backend() -> Network {
    Network::udp("/coreos.com/network", "10.244.0.0/16")
}

const EACH: [First; 4] = [
    First::Ping,
    First::Datagram,
    First::LongDatagram,
    First::Connection,
];

/// From pod to pod and from node to pod, both ways.
#[track_caller]
fn arrives_first_time<A: Member, B: Member>(pair: &Pair<A, B>) {
    for first in EACH {
        for Way {
            from,
            to,
            client,
            server,
        } in pair.both_ways()
        {
            let cold = || {
                for member in [from, to] {
                    forget_neighbours(member.node());
                }
            };
            first.reaches(cold, client, server);
            first.reaches(cold, from.node(), server);
        }
    }
}

#[rstest]
fn by_tunnel(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
    #[values(Place::Neighbour, Place::BehindRouter)] place: Place,
) {
    arrives_first_time(&pair(vxlan(), mix, place, &[]));
}

/// What is on the same link goes without a tunnel, what is behind the router with one.
#[rstest]
fn with_direct_routing(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
    #[values(Place::Neighbour, Place::BehindRouter)] place: Place,
) {
    arrives_first_time(&pair(vxlan().direct_routing(), mix, place, &[]));
}

#[rstest]
fn with_host_gw(#[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix) {
    arrives_first_time(&pair(host_gw(), mix, Place::Neighbour, &[]));
}

#[rstest]
fn with_udp(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::Flanneld)] mix: Mix,
    #[values(Place::Neighbour, Place::BehindRouter)] place: Place,
) {
    arrives_first_time(&pair(udp_backend(), mix, place, &[]));
}

#[rstest]
#[case::always(vxlan(), "--fast-path=always")]
#[case::always_direct(host_gw(), "--fast-path=always")]
#[case::always_udp(udp_backend(), "--fast-path=always")]
#[case::off(vxlan(), "--fast-path=off")]
fn with_another_fast_path(
    #[case] net: Network,
    #[case] flag: &str,
    #[values("--pod-hook=port", "--pod-hook=bridge")] hook: &str,
) {
    arrives_first_time(&agents_of(net, Options::default(), &[flag, hook]));
}

#[rstest]
#[case(vxlan())]
#[case(vxlan().direct_routing())]
fn on_a_kernel_without_tcx(#[case] net: Network) {
    let lab = Lab::new();
    let net = lab.network(net);
    let [one, two] = ["one", "two"].map(|name| {
        let node = lab.node(name);
        let wrapper = no_tcx::wrapper(&node);
        Agent::start_under(&wrapper, node, &net, &[])
    });
    let pair = Pair::of(lab, net, one, two);
    // A clsact qdisc that is added to a device takes it off the air for a moment (`qdisc_graft`, `dev_deactivate`).
    for agent in [&pair.one, &pair.two] {
        hooked(agent);
        assert!(agent.log().contains("attaching clsact filters"));
    }
    arrives_first_time(&pair);
}

/// Every packet of a flow past the stack that finds the neighbour gone.
#[rstest]
#[case(vxlan())]
#[case(host_gw())]
#[case(udp_backend())]
fn in_the_middle_of_a_fast_flow(#[case] net: Network) {
    let pair = agents_of(net, Options::default(), &[]);
    let agents = [&pair.one, &pair.two];
    let talk = fast_udp_of(&agents, &pair.pod1, &pair.pod2);
    for _ in 0..20 {
        forget_neighbours(pair.one.node());
        forget_neighbours(pair.two.node());
        talk.rounds(1);
    }
    // A packet that finds nobody is the stack's, which asks; the flow is fast all the same.
    gets_fast(&agents, |rounds| talk.rounds(rounds));
}

/// With br_netfilter a service's packet may already have a route when it comes to the bridge's hook.
#[rstest]
fn to_a_service(
    #[values(vxlan(), host_gw(), udp_backend())] net: Network,
    #[values("--pod-hook=port", "--pod-hook=bridge")] hook: &str,
) {
    let pair = agents_of(net, Options::default(), &["--fast-path=always", hook]);
    hooked(&pair.one);
    let server = udp::Server::on(&pair.pod2);
    let cluster_ip = Ipv4Addr::new(10, 96, 0, 10);
    let service = Service::new(cluster_ip, 80, vec![to(&pair.pod2, server.port())]);
    for agent in [&pair.one, &pair.two] {
        service.install(agent.node(), Iptables::Nft, &pair.net.cidr);
        flannel_rules::forward(agent, Iptables::Nft);
    }
    for _ in 0..5 {
        forget_neighbours(pair.one.node());
        forget_neighbours(pair.two.node());
        server.exchange(&pair.pod1, service.address(), 100);
    }
}

/// The gateway is forgotten, and by it the server.
fn forget_the_way_out(stage: &Stage<AnyDaemon>) {
    forget_neighbours(stage.node.node());
    forget_everybody(stage.lab.router());
}

/// By flanneld's own network alone: there the kernel translates, whatever the backend.
#[rstest]
#[case::vxlan(Kind::Ours, vxlan(), &[])]
#[case::at_the_bridge(Kind::Ours, vxlan(), &["--pod-hook=bridge"])]
#[case::without_fast_path(Kind::Ours, vxlan(), &["--fast-path=off"])]
#[case::host_gw(Kind::Ours, host_gw(), &[])]
#[case::udp(Kind::Ours, udp_backend(), &[])]
#[case::flanneld(Kind::Flanneld, vxlan(), &[])]
fn to_the_outside(#[case] kind: Kind, #[case] net: Network, #[case] flags: &[&str]) {
    let stage = Stage::on_with(kind, net, flags);
    let outside = &stage.outside;
    for first in EACH {
        let forget = || forget_the_way_out(&stage);
        first.reaches_at(forget, &stage.pod, outside, outside.address());
    }
    let is_fast = kind == Kind::Ours && !flags.contains(&"--fast-path=off");
    if is_fast {
        hooked_if_ours(&stage.node);
    }
    let talk = stage.lasting_udp();
    talk.rounds(50);
    let out = || stage.node.agent().map(sent);
    assert!(!is_fast || out() > Some(20), "{:?}", out());
    for _ in 0..20 {
        forget_the_way_out(&stage);
        talk.rounds(1);
    }
}
