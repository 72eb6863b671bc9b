//! Other vxlan devices on the port: somebody's, and flanneld's before and after ours.

use flannel_tests::fast_path::to;
use flannel_tests::pair::{Kind, Pair};
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::start;
use flannel_tests::{tcp, udp};
use rstest::rstest;

use super::{ANCHOR, DEVICE, carries_everything, has_anchor, lab, vxlan};

/// The kernel knows the port already, and no second device can have it.
#[test]
fn beside_another_vxlan_device_on_the_port() {
    let lab = lab(Wire::Segmented);
    let net = lab.network(vxlan());
    let node = lab.node("one");
    node.ip_batch(&[
        "link add other type vxlan id 99 dstport 8472 dev eth0 nolearning".to_owned(),
        "link set other up".to_owned(),
    ]);
    let one = Agent::start_with(node, &net, ANCHOR);
    let two = Agent::start_with(lab.node("two"), &net, ANCHOR);
    let pair = Pair::of(lab, net, one, two);
    let log = pair.one.log();
    assert!(
        log.contains("held by the kernel vxlan device other"),
        "{log}"
    );
    assert!(!pair.one.exec("ip -br link show").contains(DEVICE));
    let listener = tcp::Server::on(&pair.pod1);
    listener.exchange(&pair.pod2, to(&pair.pod1, listener.port()), 4 << 20);
    pair.pod1.ping(pair.pod2.address()).succeeds();
    // Once it is gone, ours comes.
    pair.one.exec("ip link del other");
    eventually("there is an anchor", SOON, || has_anchor(&pair.one));
    carries_everything(&pair);
}

/// Its agent is dead, and nobody cleans up: our pair goes, and the anchor with it.
#[rstest]
fn flanneld_takes_the_node_over(#[values(Kind::Ours, Kind::Flanneld)] before: Kind) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let flags = if before == Kind::Ours { ANCHOR } else { &[] };
    let mut one = start(before, lab.node("one"), &net, flags);
    let peer = RealFlanneld::start(lab.node("two"), &net);
    one.follow_leases();
    let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&peer, "pod2"));
    pod1.reaches(&pod2);
    one.kill();
    let back = RealFlanneld::start(one.node_arc(), &net);
    peer.follow_leases();
    back.follow_leases();
    assert!(!back.exec("ip -br link show").contains(DEVICE));
    pod1.reaches(&pod2);
    pod2.reaches(&pod1);
    let listener = tcp::Server::on(&pod1);
    listener.exchange(&pod2, to(&pod1, listener.port()), 1 << 20);
}

/// The kernel's own device has the port until ours does its work.
#[test]
fn flanneld_s_node_becomes_ours() {
    let lab = lab(Wire::Segmented);
    let net = lab.network(vxlan());
    let old = RealFlanneld::start(lab.node("one"), &net);
    let peer = RealFlanneld::start(lab.node("two"), &net);
    old.follow_leases();
    let (pod1, pod2) = (Pod::on(&old, "pod1"), Pod::on(&peer, "pod2"));
    pod1.reaches(&pod2);
    let flow = udp::Flow::start(&pod2, &pod1, pod1.address());
    let one = Agent::start_with(old.stop(), &net, ANCHOR);
    assert!(has_anchor(&one));
    pod1.ping(pod2.address()).succeeds();
    let listener = tcp::Server::on(&pod1);
    listener.exchange(&pod2, to(&pod1, listener.port()), 4 << 20);
    flow.finish().assert_complete();
}

/// As `e2e_back_to_flanneld.rs` has it of an agent with a socket.
#[test]
fn a_running_agent_stands_back_for_flanneld() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let peer = RealFlanneld::start(lab.node("two"), &net);
    let agent = Agent::start_with(lab.node("one"), &net, ANCHOR);
    let (pod1, pod2) = (Pod::on(&agent, "pod1"), Pod::on(&peer, "pod2"));
    pod1.reaches(&pod2);
    let spawn = || RealFlanneld::spawn(agent.node_arc(), &net, &[]);
    let mut flanneld = spawn();
    eventually("flanneld is ready", SOON * 4, || {
        if flanneld.process().exited().is_some() {
            flanneld = spawn();
        }
        flanneld.log().contains("flannel is ready")
    });
    flanneld.follow_leases();
    peer.follow_leases();
    pod1.reaches(&pod2);
    pod2.reaches(&pod1);
    eventually("it is logged", SOON, || {
        agent.log().contains("flanneld was started on this node")
    });
    assert!(!agent.exec("ip -br link show").contains(DEVICE));
}
