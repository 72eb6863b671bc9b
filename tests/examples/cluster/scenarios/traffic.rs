//! What pods send each other, and to others.

use flannel_tests::prelude::*;

use super::ask::{asked, try_ask};
use crate::cluster::Cluster;
use crate::kubectl::Kubectl;
use crate::pods::{PORT, limited_pod, list, pod};

pub(super) fn pods_reach_each_other(cluster: &mut Cluster) {
    for (from, to) in [("first", "second"), ("second", "first")] {
        let [source, address] = [from, to].map(|pod| cluster.kubectl.address(pod));
        cluster
            .kubectl
            .exec(from, &format!("ping -c 3 -i 0.2 -W 5 {address}"));
        // By its own address.
        assert_eq!(
            asked(&cluster.kubectl, from, &address, PORT),
            format!("{to} {source}")
        );
    }
}

pub(super) fn tcp_in_bulk(cluster: &mut Cluster) {
    let kubectl = &cluster.kubectl;
    let rates = iperf(kubectl, "first", "second", 3);
    println!("   Gb/s in each second: {}", shown(&rates, 1e9));
    assert!(rates.iter().all(|rate| *rate > 1e8), "{rates:?} b/s");
}

/// Bits in each second.
pub(super) fn iperf(kubectl: &Kubectl, from: &str, to: &str, seconds: u32) -> Vec<f64> {
    let address = kubectl.address(to);
    kubectl.exec(
        to,
        "iperf3 --server --one-off --daemon --logfile /tmp/iperf; sleep 1",
    );
    let ask = format!("iperf3 --client {address} --time {seconds} --json");
    let said = kubectl.exec(from, &ask);
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let intervals = said["intervals"].as_array().expect("intervals").iter();
    let rates = intervals.map(|it| it["sum"]["bits_per_second"].as_f64());
    rates.collect::<Option<_>>().expect("rates")
}

pub(super) fn shown(rates: &[f64], of: f64) -> String {
    let rates = rates.iter().map(|rate| format!("{:.1}", rate / of));
    rates.collect::<Vec<_>>().join(" ")
}

pub(super) fn masquerade(cluster: &mut Cluster) {
    let outside = &cluster.outside;
    let address = outside.address().to_string();
    for (pod, machine) in ["first", "second"].iter().zip(&cluster.machines) {
        let said = eventually_some("the server outside answers", SOON, || {
            try_ask(&cluster.kubectl, pod, &address, PORT).ok()
        });
        assert_eq!(said, format!("outside {}", machine.address()));
    }
}

/// By its Service, with the certificate that pods are given.
pub(super) fn api_from_a_pod(cluster: &mut Cluster) {
    let account = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
    for pod in ["first", "second"] {
        let script = format!(
            "curl --silent --show-error --max-time 20 --cacert {account} https://10.96.0.1/version"
        );
        assert!(cluster.kubectl.exec(pod, &script).contains("gitVersion"));
    }
}

pub(super) fn bandwidth(cluster: &mut Cluster) {
    let kubectl = &cluster.kubectl;
    kubectl.apply(&list(&[limited_pod("slow", "two", "10M")]));
    kubectl.pods_ready();
    for (from, to) in [("first", "slow"), ("slow", "first")] {
        let rates = iperf(kubectl, from, to, 8);
        println!("   {from} to {to}, Mb/s of 10: {}", shown(&rates, 1e6));
        // containerd asks for a bucket as large as the number has room for, and it is full at first.
        let last = rates.last().expect("seconds");
        assert!(*last < 2e7, "{from} to {to}: {last} b/s");
    }
    kubectl.run(&["delete", "pod", "slow", "--wait"]);
}

/// Put there by the plugin that the restarted pods have installed.
pub(super) fn later_pods(cluster: &mut Cluster) {
    let kubectl = &cluster.kubectl;
    kubectl.apply(&list(&[pod("third", "one"), pod("fourth", "two")]));
    kubectl.pods_ready();
    let [third, fourth] = ["third", "fourth"].map(|pod| kubectl.address(pod));
    assert_eq!(
        asked(kubectl, "third", &fourth, PORT),
        format!("fourth {third}")
    );
    assert!(asked(kubectl, "first", &third, PORT).starts_with("third "));
    kubectl.run(&["delete", "pod", "third", "fourth", "--wait"]);
}

/// The control of all that is above: without the tunnel nothing of it holds, and it is not between pods of one node.
pub(super) fn cut_tunnel(cluster: &mut Cluster) {
    let kubectl = &cluster.kubectl;
    let second = kubectl.address("second");
    // On the wire: ours takes packets ahead of a node's own rules.
    let switch = kubectl.api().netns();
    switch.run("nft add table bridge cut");
    switch.run("nft add chain bridge cut wire { type filter hook forward priority 0 ; }");
    switch.run("nft add rule bridge cut wire udp dport 8472 drop");
    let said = try_ask(kubectl, "first", &second, PORT);
    switch.run("nft delete table bridge cut");
    assert!(said.is_err(), "{said:?}");
    pods_reach_each_other(cluster);
}
