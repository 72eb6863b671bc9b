//! A cluster that is switched on: all its nodes ask the API server at once.

#![cfg(test)]

use std::collections::BTreeMap;

use flannel_tests::kube_api::KubeApi;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::spawn;
use rstest::rstest;

const NODES: usize = 100;

fn subnet(number: usize) -> String {
    format!("10.244.{}.0/24", number + 1)
}

/// Without a tunnel and programs: what is asked here is the datastore.
#[rstest]
fn a_hundred_nodes_at_once_know_each_other(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let lab = Lab::new();
    let api = KubeApi::start(&lab);
    let net = Network::host_gw("/coreos.com/network", "10.244.0.0/16");
    let mut flags = api.flags(&net);
    if kind == Kind::Ours {
        flags.push("--fast-path=off".to_owned());
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let nodes: Vec<Node> = (0..NODES)
        .map(|number| {
            let node = lab.node(&format!("n{number}"));
            api.add_node(node.name(), &[&subnet(number)]);
            node
        })
        .collect();
    let daemons: Vec<AnyDaemon> = nodes
        .into_iter()
        .map(|node| spawn(kind, node, &net, &flags))
        .collect();
    for (number, daemon) in daemons.iter().enumerate() {
        let others: Vec<String> = (0..NODES)
            .filter(|other| *other != number)
            .map(|other| format!("{} via ", subnet(other)))
            .collect();
        let what = format!("{} knows the others", daemon.node().name());
        eventually(what, 10 * SOON, || {
            let routes = daemon.node().exec("ip -4 route show");
            let is_there = |other: &String| routes.lines().any(|line| line.starts_with(other));
            others.iter().all(is_there)
        });
        let what = format!("{} has its podCIDR", daemon.node().name());
        eventually(what, SOON, || {
            daemon.subnet_file().exists() && daemon.subnet().to_string() == subnet(number)
        });
    }
    let (first, last) = (&daemons[0], &daemons[NODES - 1]);
    let (one, two) = (Pod::on(first, "pod1"), Pod::on(last, "pod2"));
    one.reaches(&two);
    two.reaches(&one);
    // Nobody was refused or had to say it again.
    let mut writes: BTreeMap<String, usize> = BTreeMap::new();
    for (_, path, _) in api.writes() {
        *writes.entry(path).or_default() += 1;
    }
    assert_eq!(writes.len(), NODES, "{writes:?}");
    // Its annotations, and that it has a network.
    assert!(writes.values().all(|&count| count <= 2), "{writes:?}");
}
