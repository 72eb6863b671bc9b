//! What is tried, by name and in this order: each begins with what the one before has left.

mod ask;
mod changes;
mod nodes;
mod policy;
mod services;
mod traffic;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use crate::cluster::Cluster;
use crate::manifests::{flannels, ours};
pub(crate) use changes::bring_up;
pub(crate) use policy::engine as policy_engine;

type Scenario = fn(&mut Cluster);

const SCENARIOS: &[(&str, Scenario)] = &[
    ("flannel_serves", changes::flannel_serves),
    ("flannel_with_network_policy", policy::network_policy),
    (
        "ours_over_flannel_under_traffic",
        changes::ours_over_flannel,
    ),
    ("rollout_undo_under_traffic", changes::rollout_undo),
    ("nodes_have_a_network", nodes::nodes_have_a_network),
    ("pods_reach_each_other", traffic::pods_reach_each_other),
    ("tcp_in_bulk", traffic::tcp_in_bulk),
    ("pods_reach_the_outside_as_their_node", traffic::masquerade),
    ("pods_reach_the_api_server", traffic::api_from_a_pod),
    ("cluster_ip", services::cluster_ip),
    ("node_port", services::node_port),
    ("external_traffic_policy_local", services::local_policy),
    ("load_balancer", services::load_balancer),
    ("host_port", services::host_port),
    ("network_policy", policy::network_policy),
    ("bandwidth", traffic::bandwidth),
    ("status_in_the_pod", nodes::status),
    ("sysctls_of_the_node", nodes::sysctls),
    ("rollout_restart_under_traffic", changes::rollout_restart),
    (
        "over_another_selector_under_traffic",
        changes::another_selector,
    ),
    ("pods_that_come_later", traffic::later_pods),
    ("reboot_of_a_node", nodes::reboot),
    ("node_removed_and_made_again", nodes::node_removed),
    ("a_cut_tunnel_is_noticed", traffic::cut_tunnel),
    ("the_chart_under_traffic", changes::by_the_chart),
    ("back_to_flannel_under_traffic", changes::back_to_flannel),
    ("cleanup_after_it", changes::cleanup),
];

/// The number of the one that ours comes by; the next goes back, so it wants flannel first as well.
const CHANGE: usize = 2;

/// Those with a wanted part in their names, or all.
pub(crate) fn run(wanted: &[String]) -> ExitCode {
    let mode = std::env::var("FLANNEL_CLUSTER_PROXY").unwrap_or_else(|_| "iptables".to_owned());
    let is_wanted =
        |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    // Whoever wants flannel first wants ours over it, or the others would try flannel.
    let flannel_first = SCENARIOS[..=CHANGE + 1]
        .iter()
        .any(|(name, _)| is_wanted(name));
    let is_chosen = |&(number, (name, _)): &(usize, &(&str, Scenario))| {
        is_wanted(name) || (flannel_first && number == CHANGE)
    };
    let numbered = SCENARIOS.iter().enumerate();
    let chosen: Vec<_> = numbered.filter(is_chosen).map(|(_, it)| it).collect();
    assert!(!chosen.is_empty(), "no scenario is called so: {wanted:?}");
    let begun = Instant::now();
    let took = |since: Instant| format!("{:.1} s", since.elapsed().as_secs_f32());
    let mut cluster = Cluster::start(&mode);
    println!(
        "cluster: two nodes with kube-proxy in mode {mode} ({})",
        took(begun)
    );
    let mut failed = Vec::new();
    let first = catch_unwind(AssertUnwindSafe(|| {
        changes::install(
            &cluster.kubectl,
            &if flannel_first { flannels() } else { ours() },
        );
        changes::populate(&cluster.kubectl);
    }));
    if first.is_err() {
        println!("cluster: no network\n{}", cluster.logs());
        return ExitCode::FAILURE;
    }
    println!("cluster: pods are ready ({})", took(begun));
    for (name, scenario) in chosen {
        let since = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| scenario(&mut cluster)));
        let said = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("test cluster::{name} … {said} ({})", took(since));
        if outcome.is_err() {
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        println!("{}\ncluster: failed: {}", cluster.logs(), failed.join(" "));
        return ExitCode::FAILURE;
    }
    println!("cluster: all passed ({})", took(begun));
    ExitCode::SUCCESS
}
