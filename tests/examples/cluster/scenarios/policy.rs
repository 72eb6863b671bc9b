//! NetworkPolicy, which is somebody else's: kube-router's rules in FORWARD, as k3s has it beside flannel.

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

/// Who comes in to the second pod.
fn policy(ingress: &Value) -> String {
    list(&[json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "second"},
        "spec": {
            "podSelector": {"matchLabels": {"pod": "second"}},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
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
    drop(engines);
    for machine in &cluster.machines {
        // It fails for want of IPVS, after it has taken its rules away.
        let clean = format!("{}/kube-router --cleanup-config", tools());
        let _ = machine.node().try_exec(&clean);
    }
    pods_reach_each_other(cluster);
}

fn engine(machine: &Machine, kubectl: &Kubectl) -> Process {
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
