//! Conntrack sees few segments of a fast connection. Once it is idle, it is kept as long as with flanneld, and the server may be
//! the first to speak again.

#![cfg(test)]

use flannel_tests::fast_path::{fast, hooked_if_ours, talk_tcp, was_fast};
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::setups::Setup::{self, *};
use flannel_tests::stage::{CLUSTER, Stage};
use flannel_tests::talk;
use flannel_tests::with_daemon::AnyDaemon;
use rstest::rstest;

const PREFIX: &str = "/coreos.com/network";
const AT_BRIDGE: &[&str] = &["--pod-hook=bridge"];

/// What conntrack keeps a connection for whose last data nobody acknowledged, seconds, unless told otherwise.
const UNACKNOWLEDGED: u64 = 300;
/// What the control's is told.
const SHORT: u64 = 5;

/// For how many seconds the node keeps the idle connection from `port`.
fn kept(node: &Node, port: u16) -> u64 {
    let list = node.exec(&format!("conntrack -L -p tcp --sport {port}"));
    let line = list.lines().find(|line| line.contains("ESTABLISHED"));
    let line = line.unwrap_or_else(|| panic!("{list}"));
    let seconds = line.split_whitespace().nth(2).expect("a time");
    seconds.parse().expect("seconds")
}

/// With flanneld from the last acknowledgement on, which may be delayed.
#[track_caller]
fn is_kept(node: &Node, port: u16) {
    eventually("conntrack keeps the connection", SOON, || {
        kept(node, port) > 10 * UNACKNOWLEDGED
    });
}

/// Conntrack sleeps until somebody asks for states. It takes up no connection in the middle: of one that is forgotten nothing passes.
/// flanneld leaves that time as it is; ours sets it, and what an admin writes over it is a drift.
fn track(daemon: &AnyDaemon) {
    let node = daemon.node();
    node.sysctl("net.netfilter.nf_conntrack_tcp_loose", 0);
    if daemon.agent().is_none() {
        node.sysctl(
            "net.netfilter.nf_conntrack_tcp_timeout_unacknowledged",
            SHORT,
        );
    }
    node.exec("iptables-nft -A FORWARD -m conntrack --ctstate INVALID -j DROP");
}

/// Until a connection of which conntrack has missed the last acknowledgement would be forgotten; then the server speaks.
#[track_caller]
fn goes_on_after_a_pause(node: &Node, tcp: &mut talk::Tcp) {
    let before = kept(node, tcp.port());
    eventually("the connection is idle for long", SOON, || {
        kept(node, tcp.port()) + SHORT < before
    });
    tcp.push();
    tcp.rounds(10);
    is_kept(node, tcp.port());
}

#[rstest]
fn an_idle_connection_between_pods_is_kept(
    #[values(
        Vxlan,
        VxlanAtBridge,
        DirectRouting,
        HostGw,
        HostGwAtBridge,
        Udp,
        Flanneld,
        FlanneldUdp
    )]
    setup: Setup,
) {
    let pair = setup.pair();
    for daemon in [&pair.one, &pair.two] {
        track(daemon);
    }
    let before = fast(&pair.one);
    let mut tcp = talk_tcp(&pair.pod1, &pair.pod2);
    tcp.rounds(300);
    was_fast(&pair.one, before, 200);
    for daemon in [&pair.one, &pair.two] {
        is_kept(daemon.node(), tcp.port());
    }
    goes_on_after_a_pause(pair.one.node(), &mut tcp);
}

#[rstest]
#[case::vxlan(Kind::Ours, Network::vxlan(PREFIX, CLUSTER), &[])]
#[case::at_the_bridge(Kind::Ours, Network::vxlan(PREFIX, CLUSTER), AT_BRIDGE)]
#[case::direct_routing(Kind::Ours, Network::vxlan(PREFIX, CLUSTER).direct_routing(), &[])]
#[case::host_gw(Kind::Ours, Network::host_gw(PREFIX, CLUSTER), &[])]
#[case::host_gw_at_the_bridge(Kind::Ours, Network::host_gw(PREFIX, CLUSTER), AT_BRIDGE)]
#[case::flanneld(Kind::Flanneld, Network::vxlan(PREFIX, CLUSTER), &[])]
fn and_one_to_the_outside(#[case] kind: Kind, #[case] net: Network, #[case] flags: &[&str]) {
    let stage = Stage::on_with(kind, net, flags);
    hooked_if_ours(&stage.node);
    track(&stage.node);
    let before = fast(&stage.node);
    let mut tcp = stage.lasting_tcp();
    tcp.rounds(300);
    if let (Some(before), Some(after)) = (before, fast(&stage.node)) {
        assert!(after.0 > before.0 + 200, "{before:?} to {after:?}");
    }
    is_kept(stage.node.node(), tcp.port());
    goes_on_after_a_pause(stage.node.node(), &mut tcp);
}
