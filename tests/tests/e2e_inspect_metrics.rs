//! `/metrics`: what the node did and what is pinned, and that packets count.

#![cfg(test)]

use flannel_tests::agent::http_get;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;

fn scrape(agent: &Agent) -> String {
    let answer = http_get(agent.node(), agent.daemon().health_port(), "/metrics").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(
        answer
            .to_lowercase()
            .contains("application/openmetrics-text"),
        "{answer}"
    );
    answer
}

/// Sum of the samples whose name and labels contain all of `parts`.
fn sum(text: &str, parts: &[&str]) -> f64 {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter(|line| parts.iter().all(|part| line.contains(part)))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

#[test]
fn packets_peers_lease_and_actions_are_shown() {
    let pair = Pair::of_agents();
    let encap = ["flannel_ebpf_forwarded_packets_total", r#"path="encap""#];
    // The peer is in the map a moment before it is counted.
    let tunnel = ["flannel_ebpf_peers{", r#""tunnel""#];
    eventually("the peer is counted", SOON, || {
        sum(&scrape(&pair.one), &tunnel) == 1.0
    });
    let before = scrape(&pair.one);
    let state = |state| sum(&before, &["flannel_ebpf_peers{", state]);
    let others = [r#""direct""#, r#""no_route""#, r#""ignored""#].map(state);
    assert_eq!(others, [0.0; 3], "{before}");
    assert!(before.contains("flannel_ebpf_ringbuf_lost_total 0"));
    assert_eq!(sum(&before, &["flannel_ebpf_map_entries", "fl_peers"]), 1.0);
    assert!(sum(&before, &["flannel_ebpf_map_capacity", "fl_peers"]) >= 5_000.0);
    assert!(sum(&before, &["reconcile_actions_total", "attach", "done"]) >= 3.0);
    let expiry = sum(&before, &["flannel_ebpf_lease_expiry_timestamp_seconds "]);
    let success = sum(
        &before,
        &["flannel_ebpf_reconcile_last_success_timestamp_seconds "],
    );
    assert!(expiry > success && success > 0.0, "{before}");

    pair.pod1.ping(pair.pod2.address()).count(4).succeeds();
    assert_eq!(sum(&scrape(&pair.one), &encap) - sum(&before, &encap), 4.0);
}
