//! Kernels without tcx (before 6.6): the same hooks as filters at clsact, with every way to the other node.

#![cfg(test)]

use std::collections::BTreeSet;

use flannel_common::program::Program::{DirectRx, UplinkRx, UplinkXdp};
use flannel_common::reason::Reason;
use flannel_tests::agent::command;
use flannel_tests::bpftool::count;
use flannel_tests::cleanup;
use flannel_tests::fast_path::{fast_both_ways, hooked, received, to};
use flannel_tests::netns::run;
use flannel_tests::no_tcx;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use flannel_tests::{tcp, udp};
use rstest::rstest;
use serde_json::Value;

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

fn host_gw() -> Network {
    Network::host_gw("/coreos.com/network", "10.244.0.0/16")
}

fn agents(net: Network, flags: &[&str]) -> Pair<Agent> {
    let lab = Lab::new();
    let net = lab.network(net);
    let [one, two] = ["one", "two"].map(|name| {
        let node = lab.node(name);
        let wrapper = no_tcx::wrapper(&node);
        Agent::start_under(&wrapper, node, &net, flags)
    });
    let pair = Pair::of(lab, net, one, two);
    for agent in [&pair.one, &pair.two] {
        hooked(agent);
        let log = agent.log();
        assert!(log.contains("attaching clsact filters"), "{log}");
    }
    pair
}

/// Program and kind of each hook, as `status` tells.
fn hooks(agent: &Agent) -> BTreeSet<(String, String)> {
    let node = agent.node();
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let state = format!("--state-dir={}", node.state_dir().display());
    let text = run(&mut command(
        node,
        &["status", "-o", "json", &bpffs, &state],
    ));
    let status: Value = serde_json::from_str(&text).unwrap();
    let word = |hook: &Value, key: &str| hook[key].as_str().unwrap().to_owned();
    let hooks = status["hooks"].as_array().unwrap().iter();
    hooks
        .inspect(|hook| assert_eq!(hook["attached"], true, "{hook}"))
        .map(|hook| (word(hook, "program"), word(hook, "mode")))
        .collect()
}

/// All filters of a node, whoever's they are.
fn filters(node: &Node) -> String {
    let links = node.exec("ip -o link show");
    let devices = links.lines().map(|line| {
        let name = line.split(": ").nth(1).unwrap();
        name.split('@').next().unwrap()
    });
    let shown = devices.flat_map(|device| {
        ["ingress", "egress"].map(|way| node.exec(&format!("tc filter show dev {device} {way}")))
    });
    shown.collect()
}

const TUNNEL: [&str; 7] = [
    "bridge_rx",
    "overlay_catch",
    "overlay_rx",
    "overlay_tx",
    "pod_rx",
    "pod_tx",
    "uplink_rx",
];

#[rstest]
#[case::vxlan(vxlan(), &[], &TUNNEL)]
#[case::with_the_driver_s_program(
    vxlan(),
    &["--xdp=on"],
    &[&TUNNEL[..], &["uplink_xdp", "xdp_rx"]].concat()
)]
#[case::host_gw(host_gw(), &[], &["direct_rx", "direct_tx", "pod_rx", "pod_tx"])]
fn traffic_flows_by_filters_and_cleanup_takes_them(
    #[case] net: Network,
    #[case] flags: &[&str],
    #[case] programs: &[&str],
) {
    let mut pair = agents(net, flags);
    for agent in [&pair.one, &pair.two] {
        let kind = |program: &str| match program {
            "uplink_xdp" => "xdp",
            _ => "clsact",
        };
        let expected = programs
            .iter()
            .map(|p| ((*p).to_owned(), kind(p).to_owned()));
        assert_eq!(hooks(agent), expected.collect());
    }

    let mut tcp = fast_both_ways(&pair, received);
    let server = tcp::Server::on(&pair.pod2);
    server.exchange(&pair.pod1, to(&pair.pod2, server.port()), 4 << 20);
    if flags.contains(&"--xdp=on") {
        assert!(count(&pair.one, UplinkXdp, Reason::XdpDecap) > 300);
        assert_eq!(count(&pair.one, UplinkRx, Reason::FastRx), 0);
    }
    assert_eq!(
        count(&pair.one, DirectRx, Reason::FastRx) > 300,
        programs.contains(&"direct_rx")
    );

    // The next agent replaces them in place.
    let flow = udp::Flow::start(&pair.pod1, &pair.pod2, pair.pod2.address());
    pair.one.kill();
    tcp.rounds(20);
    pair.one.restart();
    tcp.rounds(20);
    flow.finish().assert_complete();
    tcp.close();

    for agent in [&mut pair.one, &mut pair.two] {
        assert!(agent.terminate().success());
        run(&mut cleanup::command(agent));
        assert_eq!(filters(agent.node()), "");
        let uplink = agent.exec("ip -d link show eth0");
        assert!(!uplink.contains("prog/xdp"), "{uplink}");
        assert!(
            !agent
                .node()
                .bpffs()
                .join("flannel/coreos_com_network")
                .exists()
        );
        assert_eq!(agent.exec("ip route show proto 102"), "");
    }
}
