//! A cluster that is switched on: all its nodes ask the API server at once.

#![cfg(test)]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use flannel_agent::flannel::config::NetworkConfig;
use flannel_agent::flannel::lease::{LeaseAttrs, Leases};
use flannel_agent::source::kube::{KubeOptions, KubeSource, Names};
use flannel_agent::source::{LeaseRequest, LeaseSource as _};
use flannel_tests::kube_api::KubeApi;
use flannel_tests::kube_client::PREFIX;
use flannel_tests::prelude::*;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const NODES: u8 = 100;

fn name(number: u8) -> String {
    format!("n{number}")
}

fn subnet(number: u8) -> String {
    format!("10.244.{number}.0/24")
}

/// What an agent does first: it takes its lease, and follows the others' until it knows them all.
async fn start(options: &KubeOptions, config: &NetworkConfig, number: u8) {
    let source = KubeSource::of_node(options, &name(number)).expect("flags that are whole");
    let cancel = CancellationToken::new();
    let request = LeaseRequest {
        attrs: LeaseAttrs::host_gw(Ipv4Addr::new(192, 0, 2, number)),
        previous: None,
    };
    let own = source.acquire(config, &request, &cancel).await;
    let own = own.expect("a lease");
    assert_eq!(own.subnet.to_string(), subnet(number));
    let (_keep, own) = watch::channel(own);
    let (sender, mut leases) = watch::channel(Leases::default());
    let all_others = leases.wait_for(|leases: &Leases| leases.len() == usize::from(NODES) - 1);
    tokio::select! {
        ended = source.follow(own, Leases::default(), &sender, &cancel) => panic!("{ended:?}"),
        known = all_others => drop(known.expect("it follows")),
    }
}

#[test]
fn a_hundred_nodes_at_once_know_each_other() {
    let lab = Lab::new();
    let api = KubeApi::start(&lab);
    for number in 1..=NODES {
        api.add_node(&name(number), &[&subnet(number)]);
    }
    let net = Network::host_gw("/coreos.com/network", "10.244.0.0/16");
    // Writes the file, too.
    api.flags(&net);
    let options = KubeOptions {
        api_url: None,
        kubeconfig: Some(api.kubeconfig()),
        names: Names::new(PREFIX).expect("flannel's own prefix"),
        net_config: api.folder().join("net-conf.json"),
        set_network_available: true,
    };
    let (config, _) = NetworkConfig::parse_for_kubernetes(&net.config()).expect("a configuration");
    api.netns().block_on(async || {
        let all = join_all((1..=NODES).map(|number| start(&options, &config, number)));
        let all = tokio::time::timeout(10 * SOON, all).await;
        all.expect("each knows all others");
    });
    // Nobody was refused, or had to say anything again.
    let mut writes: BTreeMap<String, usize> = BTreeMap::new();
    for (verb, path, _) in api.writes() {
        *writes.entry(format!("{verb} {path}")).or_default() += 1;
    }
    let once = (1..=NODES).map(|number| {
        let path = format!("/api/v1/nodes/{}/status", name(number));
        (format!("patch {path}"), 1)
    });
    assert_eq!(writes, once.collect());
}
