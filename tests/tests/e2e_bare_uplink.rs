//! Uplinks without a link-layer header (tun, and what looks like it: tailscale, WireGuard), for the tunnel.

#![cfg(test)]

use flannel_common::program::Program::UplinkRx;
use flannel_common::reason::Reason;
use flannel_tests::agent::command;
use flannel_tests::bare::{IFACE, TUN, address, agents, connect, pair};
use flannel_tests::bpftool::count;
use flannel_tests::fast_path::{fast_both_ways, hooked, received};
use flannel_tests::netns::output;
use flannel_tests::pair::Mix;
use flannel_tests::prelude::*;
use flannel_tests::ways::{carries_everything, host_gw, vxlan};
use rstest::rstest;

#[rstest]
fn pods_reach_each_other(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
    #[values(vxlan(), vxlan().direct_routing(), host_gw())] net: Network,
) {
    let (pair, _link) = pair(net, mix, &[]);
    let lease = pair.lab.etcd().get(&pair.net.lease_key(pair.one.subnet()));
    let published = format!("\"PublicIP\":\"{}\"", address(1));
    assert!(lease.unwrap().contains(&published));
    carries_everything(&pair);
}

/// With dead agents: nothing goes by their sockets.
#[rstest]
#[case::verified("--fast-path=verified", true)]
#[case::always("--fast-path=always", true)]
#[case::off("--fast-path=off", true)]
#[case::bridge("--pod-hook=bridge", true)]
#[case::xdp("--xdp=auto", true)]
#[case::masquerading("--ip-masq", true)]
#[case::clsact("--ip-masq", false)]
fn the_programs_take_what_arrives(#[case] flag: &str, #[case] tcx: bool) {
    let (mut pair, _link) = agents(vxlan(), &[flag], tcx);
    pair.one.kill();
    pair.two.kill();
    carries_everything(&pair);
    let taken = [Reason::DecapDirect, Reason::DecapGro, Reason::FastRx];
    for agent in [&pair.one, &pair.two] {
        let counts = taken.map(|reason| count(agent, UplinkRx, reason));
        assert!(counts.iter().sum::<u64>() > 0, "{counts:?}");
    }
}

#[rstest]
fn a_verified_flow_skips_the_stack(#[values(true, false)] tcx: bool) {
    let (pair, _link) = agents(vxlan(), &[], tcx);
    hooked(&pair.one);
    hooked(&pair.two);
    fast_both_ways(&pair, received).close();
}

/// Two networks have a program each that makes frames of what arrives.
#[test]
fn two_networks_share_the_device() {
    let lab = Lab::new();
    let ([red, blue], [one, two]) = lab.red_and_blue();
    let _link = connect(one.netns(), two.netns());
    let start = |net: &Network| {
        let nodes = [&one, &two];
        nodes.map(|node| Agent::start_with(node.clone(), net, &[IFACE, "--ip-masq"]))
    };
    for agents in [start(&red), start(&blue)] {
        let bridge = format!("br-{}", agents[0].net().vni);
        let [a, b] = [0, 1].map(|n| Pod::behind(&agents[n], &format!("{bridge}-{n}"), &bridge));
        a.reaches(&b);
        b.reaches(&a);
    }
}

/// What operators look at knows the device.
#[test]
fn doctor_and_trace_know_the_device() {
    let (pair, _link) = agents(vxlan(), &["--ip-masq"], true);
    let node = pair.one.node();
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let etcd = format!("--etcd-endpoints={}", node.etcd());
    let run = |words: &[&str]| {
        let output = output(&mut command(node, words));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = run(&["doctor", &bpffs, &etcd, IFACE, "--ip-masq"]);
    assert!(
        text.contains(&format!("uplink {TUN} ({}", address(1))),
        "{text}"
    );
    assert!(!text.contains("under their own addresses"), "{text}");
    assert!(!text.contains("checksums"), "{text}");
    let (one, two) = (
        pair.pod1.address().to_string(),
        pair.pod2.address().to_string(),
    );
    let there = run(&["trace", &one, &two, &bpffs]);
    assert!(there.contains("sent"), "{there}");
    let back = run(&["trace", &two, &one, &bpffs]);
    assert!(
        back.contains("uplink_rx") && back.contains("delivered"),
        "{back}"
    );
}
