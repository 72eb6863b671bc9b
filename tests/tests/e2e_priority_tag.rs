//! Frames that carry a priority tag (802.1Q with VLAN id 0): the kernel takes them for untagged ones, and so do the programs.

#![cfg(test)]

use flannel_common::program::Program::{DirectRx, OutsideRx};
use flannel_common::reason::Reason;
use flannel_tests::bpftool::count;
use flannel_tests::fast_path::{fast_both_ways, hooked, received};
use flannel_tests::iptables::Iptables;
use flannel_tests::pair::{Kind, Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::stage::seen;
use flannel_tests::tuntap::{Link, tag_with_priority};
use flannel_tests::ways::{carries_everything, host_gw, join, vxlan};
use flannel_tests::{flannel_rules, no_tcx, talk, udp};
use rstest::rstest;

/// A node of which every frame is tagged, those that it gets and those that it sends.
fn tagged(lab: &Lab) -> (Node, Link) {
    let node = lab.node("one");
    let link = Link::to_switch(&node, tag_with_priority);
    (node, link)
}

fn agents(net: Network, flags: &[&str], tcx: bool) -> (Pair<Agent>, Link) {
    let lab = Lab::new();
    let net = lab.network(net);
    let (one, link) = tagged(&lab);
    let [one, two] = [one, lab.node("two")].map(|node| {
        let wrapper = match tcx {
            true => String::new(),
            false => no_tcx::wrapper(&node),
        };
        Agent::start_under(&wrapper, node, &net, flags)
    });
    (Pair::of(lab, net, one, two), link)
}

#[rstest]
fn the_tunnel_takes_them(#[values(Mix::Mixed, Mix::Kernel)] mix: Mix) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let (node, _link) = tagged(&lab);
    let (one, two) = mix.kinds();
    let one = join(one, node, &net, &[]);
    let two = join(two, lab.node("two"), &net, &[]);
    carries_everything(&Pair::of(lab, net, one, two));
}

/// With dead agents: nothing goes by their sockets.
#[rstest]
#[case::verified(vxlan(), "--fast-path=verified", true)]
#[case::always(vxlan(), "--fast-path=always", true)]
#[case::off(vxlan(), "--fast-path=off", true)]
#[case::bridge(vxlan(), "--pod-hook=bridge", true)]
#[case::xdp(vxlan(), "--xdp=on", true)]
#[case::clsact(vxlan(), "--fast-path=verified", false)]
#[case::direct_routing(vxlan().direct_routing(), "--fast-path=verified", true)]
#[case::host_gw(host_gw(), "--fast-path=always", true)]
fn the_programs_take_them(#[case] net: Network, #[case] flag: &str, #[case] tcx: bool) {
    let (mut pair, _link) = agents(net, &[flag], tcx);
    pair.one.kill();
    pair.two.kill();
    carries_everything(&pair);
}

#[rstest]
#[case::tunnel(vxlan())]
#[case::direct(host_gw())]
fn a_verified_flow_skips_the_stack(#[case] net: Network) {
    let (pair, _link) = agents(net, &[], true);
    hooked(&pair.one);
    hooked(&pair.two);
    fast_both_ways(&pair, received).close();
}

/// What the pod's kernel gets has no tag any more: that was for the link.
#[test]
fn a_pod_sees_no_tag() {
    let (pair, _link) = agents(vxlan(), &["--fast-path=always"], true);
    hooked(&pair.one);
    hooked(&pair.two);
    let tags = Capture::inside(pair.one.node(), pair.pod1.netns(), "eth0", "vlan");
    fast_both_ways(&pair, received).close();
    tags.saw_nothing();
}

#[rstest]
fn replies_from_outside_find_their_pod(
    #[values(vxlan(), host_gw())] net: Network,
    #[values(Kind::Ours, Kind::Kernel)] kind: Kind,
) {
    let lab = Lab::new();
    let net = lab.network(net);
    let outside = lab.outside();
    let (node, _link) = tagged(&lab);
    let address = node.address();
    let member = join(kind, node, &net, &["--ip-masq"]);
    if kind == Kind::Kernel {
        flannel_rules::masquerade(&member, Iptables::Nft);
    }
    let pod = Pod::on(&member, "pod");
    assert_eq!(seen(&pod, &outside, outside.address()), address);
    pod.ping(outside.address()).succeeds();
}

#[test]
fn a_verified_flow_from_outside_skips_the_stack() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let outside = lab.outside();
    let (node, _link) = tagged(&lab);
    let agent = Agent::start_with(node, &net, &["--ip-masq"]);
    let pod = Pod::on(&agent, "pod");
    hooked(&agent);
    let server = udp::Server::on(&outside);
    let to = outside.at(server.port());
    let talk = talk::Udp::open(server, &pod, to);
    talk.outlast();
    talk.rounds(200);
    let fast = count(&agent, OutsideRx, Reason::FastRx);
    assert!(fast > 100, "{fast} of 200");
    assert_eq!(count(&agent, DirectRx, Reason::FastRx), 0);
}
