//! The same ports of the pod bridge for what goes to the outside and comes back, as with flanneld: shaped, shut, or no pod's.

#![cfg(test)]

use flannel_common::program::Program::OutsideRx;
use flannel_common::reason::Reason;
use flannel_tests::bpftool::count;
use flannel_tests::bridge_port::{Guest, shaped, unfit_if_ours};
use flannel_tests::fast_path::{epoch, hooked_if_ours, sent};
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::stage::{CLUSTER, Stage};
use flannel_tests::with_daemon::AnyDaemon;
use flannel_tests::{talk, tcp, udp};
use rstest::rstest;

const ROUNDS: usize = 200;
const AT_BRIDGE: &[&str] = &["--pod-hook=bridge"];
const ALWAYS: &[&str] = &["--fast-path=always"];

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", CLUSTER)
}

fn host_gw() -> Network {
    Network::host_gw("/coreos.com/network", CLUSTER)
}

fn stage(kind: Kind, net: Network, flags: &[&str]) -> Stage<AnyDaemon> {
    let stage = Stage::on_with(kind, net, flags);
    hooked_if_ours(&stage.node);
    stage
}

/// A flow of the pod's, so far past the stack if it is ours.
#[track_caller]
fn fast_flow(stage: &Stage<AnyDaemon>) -> talk::Udp {
    let udp = stage.lasting_udp();
    udp.rounds(ROUNDS);
    if let Some(agent) = stage.node.agent() {
        let (out, back) = (sent(agent), count(agent, OutsideRx, Reason::FastRx));
        assert!(out > 100 && back > 100, "{out} and {back}");
    }
    udp
}

#[rstest]
#[case::vxlan(Kind::Ours, vxlan(), &[])]
#[case::always(Kind::Ours, vxlan(), ALWAYS)]
#[case::at_the_bridge(Kind::Ours, vxlan(), AT_BRIDGE)]
#[case::host_gw(Kind::Ours, host_gw(), &[])]
#[case::flanneld(Kind::Flanneld, vxlan(), &[])]
fn a_queueing_discipline_that_comes_sees_every_answer(
    #[case] kind: Kind,
    #[case] net: Network,
    #[case] flags: &[&str],
) {
    let stage = stage(kind, net, flags);
    let udp = fast_flow(&stage);
    let port = stage.pod.port();
    let epochs = stage.node.agent().map(epoch);
    let tbf = "root tbf rate 1gbit burst 1mb latency 400ms";
    stage.node.exec(&format!("tc qdisc add dev {port} {tbf}"));
    // At the bridge packets pass the ports anyway.
    if flags != AT_BRIDGE {
        unfit_if_ours(&stage.node, port);
        if let (Some(agent), Some(before)) = (stage.node.agent(), epochs) {
            eventually("all proofs are ended", SOON, || epoch(agent) > before);
        }
    }
    let before = shaped(&stage.node, &stage.pod);
    udp.rounds(ROUNDS);
    let seen = shaped(&stage.node, &stage.pod) - before;
    assert!(seen >= ROUNDS as u64, "{seen} of {ROUNDS}");
}

#[rstest]
#[case::vxlan(Kind::Ours, vxlan(), &[])]
#[case::at_the_bridge(Kind::Ours, vxlan(), AT_BRIDGE)]
#[case::host_gw(Kind::Ours, host_gw(), &[])]
#[case::flanneld(Kind::Flanneld, vxlan(), &[])]
fn a_pod_whose_port_is_down_gets_nothing_and_sends_nothing(
    #[case] kind: Kind,
    #[case] net: Network,
    #[case] flags: &[&str],
) {
    let stage = stage(kind, net, flags);
    let udp = fast_flow(&stage);
    let port = stage.pod.port();
    let epochs = stage.node.agent().map(epoch);
    stage.node.exec(&format!("ip link set {port} down"));
    if let (Some(agent), Some(before), true) = (stage.node.agent(), epochs, flags != AT_BRIDGE) {
        eventually("all proofs are ended", SOON, || epoch(agent) > before);
    }
    let ends = [
        (stage.outside.netns(), stage.outside.address()),
        (stage.pod.netns(), stage.pod.address()),
    ];
    let captures = ends.map(|(netns, address)| {
        let filter = format!("udp and dst host {address}");
        Capture::inside(stage.node.node(), netns, "eth0", &filter)
    });
    udp.both_send(100);
    for capture in captures {
        assert_eq!(capture.finish().len(), 0);
    }
    stage.node.exec(&format!("ip link set {port} up"));
    eventually("the flow goes on", SOON, || udp.round());
}

/// Not so behind a second bridge: with flanneld, datagrams from there to the outside are lost.
#[rstest]
#[case::vxlan(Kind::Ours, vxlan(), &[])]
#[case::always(Kind::Ours, vxlan(), ALWAYS)]
#[case::at_the_bridge(Kind::Ours, vxlan(), AT_BRIDGE)]
#[case::host_gw(Kind::Ours, host_gw(), &[])]
#[case::flanneld(Kind::Flanneld, vxlan(), &[])]
fn whoever_is_behind_a_tap_talks_on(
    #[case] kind: Kind,
    #[case] net: Network,
    #[case] flags: &[&str],
) {
    let stage = stage(kind, net, flags);
    let guest = Guest::behind_a_tap(&stage.node);
    if flags != AT_BRIDGE {
        unfit_if_ours(&stage.node, guest.port);
    }
    eventually("the guest reaches the server", SOON, || {
        guest.ping(stage.outside.address()).count(1).lossless()
    });
    let server = udp::Server::on(&stage.outside);
    let to = stage.outside.at(server.port());
    let udp = talk::Udp::open(server, &guest, to);
    let server = tcp::Server::on(&stage.outside);
    let mut tcp = talk::Tcp::open(&server, &guest, stage.outside.at(server.port()));
    udp.outlast();
    tcp.outlast();
    udp.rounds(ROUNDS);
    tcp.rounds(ROUNDS);
}
