//! The agent may die, be upgraded or lose etcd: what is forwarded goes on, packet by packet.

use std::time::Duration;

use flannel_tests::agent::http_status;
use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::udp::assert_nothing_lost;
use rstest::rstest;

/// An agent looks at everything every 30 seconds.
const LOOKS: Duration = Duration::from_secs(90);

#[rstest]
fn kill_and_restart_lose_no_packet(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let mut pair = Pair::of_daemons(mix, &[]);
    let subnet = pair.one.subnet();
    let flows = pair.flows();
    pair.one.kill();
    pair.pod1.ping(pair.pod2.address()).succeeds();
    pair.one.restart();
    pair.pod1.ping(pair.pod2.address()).succeeds();
    assert_nothing_lost(flows);
    assert_eq!(pair.one.subnet(), subnet);
}

/// Another constant in the programs: they are replaced under the links that carry the traffic.
#[test]
fn a_restart_with_other_settings_loses_no_packet() {
    let mut pair = Pair::of_agents();
    let flows = pair.flows();
    pair.one.kill();
    pair.one.restart_with(&["--source-check=off"]);
    pair.pod1.ping(pair.pod2.address()).succeeds();
    assert_nothing_lost(flows);
}

#[rstest]
fn sigterm_exits_with_0_and_leaves_forwarding_in_place(
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
) {
    let mut pair = Pair::of_daemons(mix, &[]);
    let look = || pair.one.exec("ip -brief link show dev flannel.1");
    // The kernel tells of a carrier when it gets to it (`net/core/link_watch.c`).
    eventually("flannel.1 has its carrier", SOON, || {
        !look().contains("DOWN")
    });
    let before = look();
    let flows = pair.flows();
    let status = pair.one.terminate();
    assert_eq!(status.code(), Some(0), "{}", pair.one.log());
    pair.pod1.ping(pair.pod2.address()).succeeds();
    pair.pod2.ping(pair.pod1.address()).succeeds();
    assert!(pair.one.subnet_file().exists());
    pair.one.restart();
    assert_nothing_lost(flows);
    assert_eq!(pair.one.exec("ip -brief link show dev flannel.1"), before);
}

#[rstest]
fn without_etcd_forwarding_goes_on_and_new_leases_are_seen_when_it_is_back(
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
) {
    let pair = Pair::of_daemons(mix, &[]);
    let flows = pair.flows();
    pair.lab.etcd().kill();
    pair.pod1.ping(pair.pod2.address()).count(20).succeeds();
    pair.lab.etcd().restart();
    let third = KernelVxlan::join(pair.lab.node("three"), &pair.net);
    let pod3 = Pod::on(&third, "pod3");
    pair.pod1.reaches(&pod3);
    pair.pod2.reaches(&pod3);
    assert_nothing_lost(flows);
}

#[test]
fn an_agent_that_starts_without_etcd_forwards_as_before_and_catches_up() {
    let mut pair = Pair::of_agents();
    pair.one.kill();
    pair.lab.etcd().kill();
    let mut daemon = pair.one.spawn_again();
    pair.pod1.ping(pair.pod2.address()).count(20).succeeds();
    assert_eq!(daemon.process().exited(), None, "{}", daemon.log());
    pair.lab.etcd().restart();
    daemon.wait_until_ready(pair.one.node());
    pair.pod1.ping(pair.pod2.address()).succeeds();
}

/// By mistake, or while one takes the other's place: both forward, but only one may hold the hooks.
#[test]
fn of_two_agents_on_one_node_the_younger_serves_and_the_other_waits() {
    let mut pair = Pair::of_agents();
    let flows = pair.flows();
    let port = pair.one.daemon().health_port();
    let is_ready = |pair: &Pair<Agent>| http_status(pair.one.node(), port, "/readyz") == Some(200);
    let mut second = pair.one.spawn_again();
    second.wait_until_ready(pair.one.node());
    eventually("the first says who is in its place", SOON, || {
        pair.one
            .log()
            .contains("another flannel-agent runs on this node")
    });
    assert!(!is_ready(&pair));
    Pod::on(&pair.one, "late").reaches(&pair.pod2);
    assert!(
        !second.log().contains(r#""drift":true"#),
        "{}",
        second.log()
    );
    assert!(!is_ready(&pair));

    assert_nothing_lost(flows);

    // Whoever serves repairs: nobody else's program is in that place.
    let node = pair.one.node();
    let links = node.bpffs().join("flannel/coreos_com_network/links");
    let names = std::fs::read_dir(&links).expect("the pinned links");
    let mut names = names.map(|link| link.expect("a link").path());
    match names.find(|link| link.to_string_lossy().contains("uplink_rx")) {
        Some(link) => drop(node.exec(&format!("bpftool link detach pinned {}", link.display()))),
        // Before 6.6 programs are filters.
        None => drop(node.exec("tc filter del dev eth0 ingress")),
    }
    eventually("the program is attached again", LOOKS, || {
        let log = second.log();
        log.contains(r#""attach uplink_rx to ingress of eth0","drift":true"#)
    });
    pair.pod1.ping(pair.pod2.address()).succeeds();
    assert!(!is_ready(&pair));

    let flows = pair.flows();
    second.process().kill();
    eventually("the first serves again", SOON, || is_ready(&pair));
    Pod::on(&pair.one, "later").reaches(&pair.pod2);
    assert_nothing_lost(flows);
    assert!(pair.one.terminate().success());
}

#[test]
fn a_lease_that_was_taken_away_is_taken_again() {
    let pair = Pair::of_agents();
    let key = pair.net.lease_key(pair.one.subnet());
    let value = pair.lab.etcd().get(&key).expect("the lease");
    pair.lab.etcd().delete(&key);
    eventually("the same lease is back", SOON, || {
        pair.lab.etcd().get(&key).as_ref() == Some(&value)
    });
    pair.pod2.reaches(&pair.pod1);
}
