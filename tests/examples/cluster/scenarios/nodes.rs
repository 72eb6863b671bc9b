//! A node's life, and what its agent says.

use flannel_tests::prelude::*;

use super::ask::try_ask;
use super::changes::{CONTAINER, NAMESPACE, populate};
use super::services::{ALONE, node_port};
use super::traffic::pods_reach_each_other;
use crate::cluster::Cluster;
use crate::kubectl::LONG;
use crate::pods::PORT;

/// What the agent says of it to Kubernetes.
pub(super) fn nodes_have_a_network(cluster: &mut Cluster) {
    for machine in &cluster.machines {
        let node = cluster.kubectl.get(&["node", machine.name()]);
        let conditions = node["status"]["conditions"].as_array().expect("conditions");
        let network = conditions
            .iter()
            .find(|it| it["type"] == "NetworkUnavailable");
        assert_eq!(network.expect("NetworkUnavailable")["status"], "False");
        let annotations = &node["metadata"]["annotations"];
        let address = &annotations["flannel.alpha.coreos.com/public-ip"];
        assert_eq!(*address, machine.address().to_string());
        assert!(node["spec"]["taints"].is_null(), "{}", node["spec"]);
    }
}

pub(super) fn status(cluster: &mut Cluster) {
    let kubectl = &cluster.kubectl;
    let pods = kubectl.run(&[NAMESPACE, "get", "pods", "--output=name"]);
    for pod in pods.lines() {
        let ask = |verb: &[&str]| {
            let exec = [NAMESPACE, "exec", CONTAINER, pod, "--"];
            kubectl.run(&[&exec, verb].concat())
        };
        let said = ask(&["flannel-agent", "status"]);
        assert!(said.contains("10.244."), "{said}");
    }
}

/// By a container that is not privileged: one of the agent's devices, and one of the node.
pub(super) fn sysctls(cluster: &mut Cluster) {
    for machine in &cluster.machines {
        for (key, wanted) in [
            ("net.netfilter.nf_conntrack_tcp_be_liberal", "1"),
            ("net.ipv4.conf.flannel/1.rp_filter", "0"),
        ] {
            let is = machine.node().exec(&format!("sysctl --values {key}"));
            assert_eq!(is.trim(), wanted, "{key} on {}", machine.name());
        }
    }
}

/// Everything of it but its disk is new.
pub(super) fn reboot(cluster: &mut Cluster) {
    cluster.machines[1].reboot();
    cluster.machines[1].wait_until_up();
    let kubectl = cluster.kubectl.clone();
    // The pods are the same for the API server, which hears only later that they were away.
    eventually("pods of both nodes reach each other again", LONG, || {
        let second = &kubectl.get(&["pod", "second"])["status"]["podIP"];
        let second = second.as_str().unwrap_or_default().to_owned();
        let there = try_ask(&kubectl, "first", &second, PORT);
        let back = try_ask(&kubectl, "second", ALONE, PORT);
        there.is_ok_and(|it| it.starts_with("second "))
            && back.is_ok_and(|it| it.starts_with("first "))
    });
    kubectl.rolled_out();
    kubectl.pods_ready();
    pods_reach_each_other(cluster);
    node_port(cluster);
}

/// It may get another podCIDR: nothing of the old one is in the way.
pub(super) fn node_removed(cluster: &mut Cluster) {
    let kubectl = cluster.kubectl.clone();
    let peers_of_one = || {
        let field = "--field-selector=spec.nodeName=one";
        let pods = kubectl.run(&[NAMESPACE, "get", "pods", "--output=name", field]);
        let ask = [
            "exec",
            CONTAINER,
            pods.trim(),
            "--",
            "flannel-agent",
            "status",
        ];
        kubectl.try_run(&[&[NAMESPACE], &ask[..]].concat())
    };
    kubectl.run(&["delete", "node", "two"]);
    eventually("the other node has forgotten it", LONG, || {
        peers_of_one().is_ok_and(|said| said.contains(" 0 peers"))
    });
    kubectl.run(&["delete", "pod", "second", "--force", "--wait"]);
    cluster.machines[1].reboot();
    cluster.machines[1].wait_until_up();
    eventually("it is registered again", LONG, || {
        kubectl.try_run(&["get", "node", "two"]).is_ok()
    });
    eventually("the other node knows it again", LONG, || {
        peers_of_one().is_ok_and(|said| said.contains(" 1 peers"))
    });
    kubectl.nodes_ready();
    kubectl.rolled_out();
    populate(&kubectl);
    pods_reach_each_other(cluster);
    nodes_have_a_network(cluster);
}
