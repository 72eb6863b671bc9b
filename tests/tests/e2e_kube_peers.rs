//! The Kubernetes API as datastore: what other Nodes say, however odd; nobody is hijacked that was served before.

#![cfg(test)]

use flannel_tests::kube_api::KubeApi;
use flannel_tests::pair::{Kind, Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::udp::assert_nothing_lost;
use flannel_tests::with_daemon::start;
use rstest::rstest;
use serde_json::Value;

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

struct Stage {
    api: KubeApi,
    flags: Vec<String>,
    pair: Pair<AnyDaemon>,
}

fn stage(mix: Mix) -> Stage {
    let (lab, net) = (Lab::new(), vxlan());
    let api = KubeApi::start(&lab);
    api.add_node("one", &["10.244.1.0/24"]);
    api.add_node("two", &["10.244.2.0/24"]);
    let flags = api.flags(&net);
    let given: Vec<&str> = flags.iter().map(String::as_str).collect();
    let pair = Pair::of_daemons_in(lab, net, mix, &given);
    Stage { api, flags, pair }
}

const DATA: &str = r#"{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}"#;

fn route(daemon: &AnyDaemon, subnet: &str) -> bool {
    let routes = daemon.node().exec("ip -4 route show");
    routes
        .lines()
        .any(|line| line.starts_with(&format!("{subnet} ")))
}

#[track_caller]
fn says(daemon: &AnyDaemon, text: &str) {
    eventually(format!("the log says {text:?}"), SOON, || {
        daemon.log().contains(text)
    });
}

/// As flanneld: a Node that comes has its route, one that goes has none.
#[rstest]
fn nodes_come_and_go(#[values(Mix::Ours, Mix::OursAndFlanneld)] mix: Mix) {
    let Stage { api, pair, .. } = stage(mix);
    let flows = pair.flows();
    api.add_peer("three", "10.244.3.0/24", "172.30.0.99", DATA);
    for daemon in [&pair.one, &pair.two] {
        eventually("three has a route", SOON, || route(daemon, "10.244.3.0/24"));
    }
    api.delete_node("three");
    for daemon in [&pair.one, &pair.two] {
        eventually("three has none", SOON, || !route(daemon, "10.244.3.0/24"));
    }
    assert_nothing_lost(flows);
}

/// Each is named, and named once, and two goes on.
#[test]
fn odd_nodes_are_named_once_and_hijack_nobody() {
    let Stage { api, pair, .. } = stage(Mix::Ours);
    let flows = pair.flows();
    let two = pair.two.node().address().to_string();
    let odd = [
        (
            "loopback",
            "10.244.10.0/24",
            "127.0.0.1",
            DATA,
            "a loopback address",
        ),
        (
            "multicast",
            "10.244.11.0/24",
            "224.0.0.5",
            DATA,
            "a multicast address",
        ),
        (
            "nonsense",
            "10.244.12.0/24",
            "here",
            DATA,
            "no IPv4 address",
        ),
        ("broken", "10.244.13.0/24", "172.30.0.90", "{", "no JSON"),
        (
            "same",
            "10.244.2.0/24",
            "172.30.0.91",
            DATA,
            "of Node two, which was there before and counts",
        ),
        (
            "part",
            "10.244.2.128/25",
            "172.30.0.92",
            DATA,
            "of Node two, which was there before and counts",
        ),
        (
            "whole",
            "10.244.0.0/17",
            "172.30.0.93",
            DATA,
            "overlaps this node's 10.244.1.0/24",
        ),
        (
            "copy",
            "10.244.14.0/24",
            &two,
            DATA,
            "that of Node two, too",
        ),
    ];
    for (name, cidr, public_ip, data, _) in odd {
        api.add_peer(name, cidr, public_ip, data);
    }
    for (name, .., why) in odd {
        says(&pair.one, &format!("Node {name}: "));
        says(&pair.one, why);
        // Heartbeats say nothing new.
        api.annotate(name, "heartbeat", "1");
    }
    api.add_peer(
        "zero",
        "10.244.15.0/24",
        "172.30.0.94",
        &DATA.replace("02:00:00:00:00:99", "00:00:00:00:00:00"),
    );
    api.add_peer(
        "broad",
        "10.244.16.0/24",
        "172.30.0.95",
        &DATA.replace("02:00:00:00:00:99", "ff:ff:ff:ff:ff:ff"),
    );
    api.add_peer("fine", "10.244.17.0/24", "172.30.0.96", DATA);
    eventually("a fine one has a route", SOON, || {
        route(&pair.one, "10.244.17.0/24")
    });
    for third in ["10", "11", "12", "13", "15", "16"] {
        assert!(
            !route(&pair.one, &format!("10.244.{third}.0/24")),
            "{third}"
        );
    }
    let log = pair.one.log();
    for (name, ..) in odd {
        assert_eq!(
            log.matches(&format!("Node {name}: ")).count(),
            1,
            "{name}: {log}"
        );
    }
    assert_nothing_lost(flows);
}

/// What a peer's Node said counts until it says something else, or is gone.
#[test]
fn annotations_that_vanish_cost_no_packet() {
    let stage = stage(Mix::FlanneldAndOurs);
    let (api, pair) = (&stage.api, &stage.pair);
    let flows = pair.flows();
    // flanneld does not put it right.
    api.annotate("one", "kube-subnet-manager", Value::Null);
    says(
        &pair.two,
        "Node one: it no longer says that flannel manages it; keeping what it said before",
    );
    api.annotate("one", "backend-data", "nonsense");
    api.annotate("one", "kube-subnet-manager", "true");
    says(&pair.two, "its annotation backend-data is");
    pair.pod2.reaches(&pair.pod1);
    assert_nothing_lost(flows);
}

/// A Node that is deleted and made again, and its daemon with it.
#[rstest]
fn a_peer_that_is_made_again_is_reached_anew(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let Stage { api, flags, pair } = stage(Mix::Ours);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let three = pair.lab.node("three");
    api.add_node("three", &["10.244.3.0/24"]);
    let mut daemon = start(kind, three, &pair.net, &flags);
    eventually("three has a route", SOON, || {
        route(&pair.one, "10.244.3.0/24")
    });
    daemon.terminate();
    let node = daemon.node_arc();
    api.delete_node("three");
    eventually("three has none", SOON, || {
        !route(&pair.one, "10.244.3.0/24")
    });
    api.add_node("three", &["10.244.33.0/24"]);
    let daemon = start(kind, node, &pair.net, &flags);
    eventually("it has another", SOON, || {
        route(&pair.one, "10.244.33.0/24")
    });
    let pod = Pod::on(&daemon, "pod");
    pod.reaches(&pair.pod1);
    pair.pod1.reaches(&pod);
}
