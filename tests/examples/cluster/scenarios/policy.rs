//! NetworkPolicy, which is somebody else's: kube-router's rules in FORWARD, as k3s has it beside flannel.

use std::time::{Duration, Instant};

use flannel_tests::prelude::*;
use flannel_tests::process::Process;
use serde_json::{Value, json};

use super::ask::{asked, try_ask};
use super::traffic::pods_reach_each_other;
use crate::cluster::Cluster;
use crate::kubectl::{Kubectl, LONG};
use crate::machine::{Machine, tools};
use crate::pods::{PORT, list};
use crate::traffic::Traffic;

/// So many lines by one connection, ten a second: it is fast where flows are.
const FAST: u32 = 20;
/// A flow of ten lines a second that says nothing for so long has stopped.
const STILL: Duration = Duration::from_secs(4);

/// Who comes in to the second pod.
fn policy(ingress: &Value) -> String {
    policy_of(&json!({"policyTypes": ["Ingress"], "ingress": ingress}))
}

fn policy_of(spec: &Value) -> String {
    let mut spec = spec.clone();
    spec["podSelector"] = json!({"matchLabels": {"pod": "second"}});
    list(&[json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "second"},
        "spec": spec,
    })])
}

/// The same with flannel and with ours. Flows are fast before a policy comes, and it changes under them.
pub(super) fn network_policy(cluster: &mut Cluster) {
    let kubectl = &cluster.kubectl;
    let second = kubectl.address("second");
    let engines = cluster
        .machines
        .each_ref()
        .map(|machine| engine(machine, kubectl));
    // Known to the engine once a policy holds.
    let asks = |pod: &str| try_ask(kubectl, pod, &second, PORT).is_ok();
    let pings = |pod: &str| {
        let ping = format!("ping -c 1 -W 2 {second}");
        kubectl.try_exec(pod, &ping).is_ok()
    };
    let running = Traffic::start(kubectl, "first", &second, true);

    kubectl.apply(&policy(&json!([])));
    eventually("nobody new comes in", LONG, || {
        !asks("first") && !pings("first")
    });
    // Not by chance, nor for a moment: a fast flow of before opens no door for another.
    for _ in 0..5 {
        assert!(!asks("first") && !pings("first"));
    }
    // What is established goes on, by the engine's own rule.
    let ended = running.end();
    assert!(ended.lines.is_some(), "{ended:?}");

    let port = json!([{"port": PORT, "protocol": "TCP"}]);
    let from = |labels: Value| json!([{"podSelector": {"matchLabels": labels}}]);
    let first = json!({"pod": "first"});
    kubectl.apply(&policy(&json!([{"ports": port, "from": from(first)}])));
    eventually("who may comes in", LONG, || asks("first"));
    assert!(!pings("first"), "that port alone");

    let nobody = json!({"pod": "nobody"});
    kubectl.apply(&policy(&json!([{"ports": port, "from": from(nobody)}])));
    eventually("who may no more does not", LONG, || !asks("first"));

    kubectl.run(&["delete", "networkpolicy", "second"]);
    eventually("everybody comes in again", LONG, || {
        asks("first") && pings("first")
    });
    assert!(asked(kubectl, "first", &second, PORT).starts_with("second "));
    change_under_a_flow(cluster, &second);
    drop(engines);
    for machine in &cluster.machines {
        // It fails for want of IPVS, after it has taken its rules away.
        let clean = format!("{}/kube-router --cleanup-config", tools());
        let _ = machine.node().try_exec(&clean);
    }
    pods_reach_each_other(cluster);
}

/// The engine lets go on what conntrack knows. Once conntrack has forgotten a flow, a policy that forbids it stops it, also one that
/// is fast; and without the policy it goes on as if nothing had been.
fn change_under_a_flow(cluster: &Cluster, second: &str) {
    let kubectl = &cluster.kubectl;
    let first = kubectl.address("first");
    let running = Traffic::start(kubectl, "first", second, false);
    let begun = running.lines();
    eventually("the flow is none of the first packets alone", LONG, || {
        running.lines() > begun + FAST
    });
    // In both directions: an answer of the second pod's would make the flow known again.
    kubectl.apply(&policy_of(&json!({"policyTypes": ["Ingress", "Egress"]})));
    eventually("nobody new comes in", LONG, || {
        try_ask(kubectl, "first", second, PORT).is_err()
    });
    let known = running.lines();
    eventually("what is established goes on", LONG, || {
        running.lines() > known + FAST
    });
    let forgotten = Instant::now();
    for machine in &cluster.machines {
        let forget = format!("conntrack -D --orig-src {first} --orig-dst {second}");
        let said = machine.node().try_exec(&forget);
        assert!(said.status.success(), "{said:?}");
    }
    let (mut last, mut since) = (running.lines(), Instant::now());
    eventually("the flow stops", LONG, || {
        let lines = running.lines();
        if lines != last {
            (last, since) = (lines, Instant::now());
        }
        since.elapsed() >= STILL
    });
    println!(
        "   the flow stopped {:.1} s after conntrack forgot it",
        (since - forgotten).as_secs_f32()
    );
    // For good.
    assert!(try_ask(kubectl, "first", second, PORT).is_err());
    assert_eq!(running.lines(), last);

    kubectl.run(&["delete", "networkpolicy", "second"]);
    eventually("the flow goes on", LONG, || running.lines() > last + FAST);
    let ended = running.end();
    assert!(ended.lines.is_some(), "{ended:?}");
}

/// kube-router, for NetworkPolicy alone.
pub(crate) fn engine(machine: &Machine, kubectl: &Kubectl) -> Process {
    let node = machine.node();
    let mut command = node.netns().command(&format!("{}/kube-router", tools()));
    command
        .arg(format!("--kubeconfig={}", kubectl.kubeconfig().display()))
        .arg(format!("--hostname-override={}", machine.name()))
        .arg("--service-cluster-ip-range=10.96.0.0/16")
        .args(["--run-firewall=true", "--run-router=false"])
        .args(["--run-service-proxy=false", "--run-loadbalancer=false"])
        .args(["--metrics-port=0", "--health-port=0"]);
    Process::spawn(
        "kube-router",
        command,
        &node.folder().join("kube-router.log"),
    )
}
