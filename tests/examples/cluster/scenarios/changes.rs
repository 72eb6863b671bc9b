//! From flannel to ours, back, and by whatever tool.

use flannel_tests::manifest::deployed;
use flannel_tests::prelude::*;

use super::services::{self, ALONE, FAR};
use super::traffic::{bandwidth, later_pods, pods_reach_each_other};
use crate::cluster::Cluster;
use crate::kubectl::{Kubectl, LONG};
use crate::manifests::{flannels, ours, with_bandwidth};
use crate::pods::{list, pod};
use crate::traffic::{Ended, Traffic};

/// A node's own switch, in packets of twenty a second: neither daemon does better with kube-proxy's and kubelet's load beside it.
const OWN_SWITCH: usize = 20;

pub(super) const NAMESPACE: &str = "--namespace=kube-flannel";
pub(super) const CONTAINER: &str = "--container=kube-flannel";

pub(super) fn install(kubectl: &Kubectl, manifest: &str) {
    kubectl.apply(&with_bandwidth(manifest));
    kubectl.rolled_out();
    kubectl.nodes_ready();
}

pub(super) fn populate(kubectl: &Kubectl) {
    // Made by the controller manager after the namespace.
    eventually("pods have an account", LONG, || {
        kubectl
            .try_run(&["get", "serviceaccount", "default"])
            .is_ok()
    });
    let pods = [pod("first", "one"), pod("second", "two")];
    kubectl.apply(&list(&[&pods[..], &services::of_the_pods()].concat()));
    kubectl.pods_ready();
}

pub(super) fn flannel_serves(cluster: &mut Cluster) {
    pods_reach_each_other(cluster);
    services::cluster_ip(cluster);
    // Whether this kernel and this containerd limit at all.
    bandwidth(cluster);
}

pub(super) fn ours_over_flannel(cluster: &mut Cluster) {
    change(cluster, &ours());
}

pub(super) fn back_to_flannel(cluster: &mut Cluster) {
    change(cluster, &flannels());
    pods_reach_each_other(cluster);
}

/// As docs/kubernetes.md has it: nothing of ours stays, and flannel is not disturbed.
pub(super) fn cleanup(cluster: &mut Cluster) {
    let kubectl = &cluster.kubectl;
    let ended = under_traffic(cluster, || {
        for machine in &cluster.machines {
            let node = format!("node/{}", machine.name());
            let said = kubectl.run(&[
                "debug",
                &node,
                "--image=flannel-ebpf:latest",
                "--image-pull-policy=IfNotPresent",
                "--profile=sysadmin",
                "--",
                "flannel-agent",
                "cleanup",
                "--bpffs=/host/sys/fs/bpf",
                "--state-dir=/host/run/flannel",
                "--subnet-file=/host/run/flannel/subnet.env",
                "--snapshot-dir=/host/var/lib/flannel-ebpf",
            ]);
            let pod = said
                .split(' ')
                .find(|word| word.starts_with("node-debugger"));
            let pod = format!("pod/{}", pod.expect("it says what it makes"));
            let phase = eventually_some("cleanup has ended", LONG, || {
                let phase = &kubectl.get(&[&pod])["status"]["phase"];
                let phase = phase.as_str().unwrap_or_default().to_owned();
                ["Failed", "Succeeded"].contains(&&*phase).then_some(phase)
            });
            let log = kubectl.run(&["logs", &pod]);
            assert_eq!(phase, "Succeeded", "{log}");
            kubectl.run(&["delete", &pod, "--wait"]);
            let attached = machine.node().exec("bpftool net");
            assert!(!attached.contains("uplink"), "{attached}");
            // A boot without the API server would begin by what is there.
            assert!(log.contains("/host/var/lib/flannel-ebpf/"), "{log}");
        }
    });
    for ended in ended {
        assert!(ended.lost.len() <= OWN_SWITCH, "{ended:?}");
        assert!(ended.lines.is_some(), "a connection broke: {ended:?}");
    }
    later_pods(cluster);
    pods_reach_each_other(cluster);
}

/// Applies `manifest` over what is there.
pub(super) fn change(cluster: &Cluster, manifest: &str) {
    let ended = under_traffic(cluster, || install(&cluster.kubectl, manifest));
    no_more_than_a_switch(cluster, &ended);
}

/// Of each node, and every connection lived on.
pub(super) fn no_more_than_a_switch(cluster: &Cluster, ended: &[Ended]) {
    for ended in ended {
        let allowed = OWN_SWITCH * cluster.machines.len();
        assert!(ended.lost.len() <= allowed, "{ended:?}");
        assert!(ended.lines.is_some(), "a connection broke: {ended:?}");
    }
}

/// Traffic of either node's pod with the other, with a Service and with the outside, while `work` is done.
pub(super) fn under_traffic(cluster: &Cluster, work: impl FnOnce()) -> Vec<Ended> {
    let kubectl = &cluster.kubectl;
    let [first, second] = ["first", "second"].map(|pod| kubectl.address(pod));
    let outside = cluster.outside.address().to_string();
    let traffic = [
        ("first", &*second, true),
        ("second", &*first, true),
        ("first", FAR, false),
        ("second", ALONE, false),
        ("first", &*outside, true),
        ("second", &*outside, true),
    ];
    let traffic = traffic.map(|(pod, to, pings)| Traffic::start(kubectl, pod, to, pings));
    work();
    let ended = traffic.map(Traffic::end);
    for ended in &ended {
        println!(
            "   {}: {} pings answered, {} lost {:?}; lines by one connection: {:?}",
            ended.way,
            ended.answered,
            ended.lost.len(),
            ended.lost,
            ended.lines
        );
    }
    ended.into()
}

/// Back to the DaemonSet of before, which is flannel's, and once more, which is ours again.
pub(super) fn rollout_undo(cluster: &mut Cluster) {
    for _ in 0..2 {
        let kubectl = cluster.kubectl.clone();
        let ended = under_traffic(cluster, || {
            kubectl.run(&[NAMESPACE, "rollout", "undo", "daemonset/kube-flannel-ds"]);
            kubectl.rolled_out();
        });
        no_more_than_a_switch(cluster, &ended);
        later_pods(cluster);
        pods_reach_each_other(cluster);
    }
}

/// helm takes over what kubectl has made, and takes it away: what forwards stays, and a manifest goes on with it.
pub(super) fn by_the_chart(cluster: &mut Cluster) {
    let kubectl = cluster.kubectl.clone();
    let chart = deployed("charts/flannel-ebpf").display().to_string();
    let ended = under_traffic(cluster, || {
        kubectl.helm(&[
            "upgrade",
            "--install",
            "flannel",
            &chart,
            "--take-ownership",
            "--set=ebpf.selector.k8s-app=flannel",
        ]);
        kubectl.rolled_out();
    });
    no_more_than_a_switch(cluster, &ended);
    later_pods(cluster);
    pods_reach_each_other(cluster);
    let ended = under_traffic(cluster, || {
        kubectl.helm(&["uninstall", "flannel", "--wait"]);
        install(&kubectl, &ours());
    });
    no_more_than_a_switch(cluster, &ended);
    later_pods(cluster);
}

pub(super) fn rollout_restart(cluster: &mut Cluster) {
    let kubectl = cluster.kubectl.clone();
    let ended = under_traffic(cluster, || {
        let set = "daemonset/kube-flannel-ds";
        kubectl.run(&[NAMESPACE, "rollout", "restart", set]);
        kubectl.rolled_out();
    });
    for ended in ended {
        assert_eq!(ended.lost, Vec::<u32>::new());
        assert!(ended.lines.is_some(), "a connection broke: {ended:?}");
    }
}

/// As docs/kubernetes.md has it for a flannel with another selector: pods and what forwards stay, and the next DaemonSet adopts them.
pub(super) fn another_selector(cluster: &mut Cluster) {
    let kubectl = cluster.kubectl.clone();
    let set = "daemonset/kube-flannel-ds";
    let other = with_bandwidth(&ours()).replace(
        "matchLabels: {app: flannel, k8s-app: flannel}",
        "matchLabels: {app: flannel}",
    );
    assert_ne!(other, with_bandwidth(&ours()));
    let ended = under_traffic(cluster, || {
        for manifest in [&other, &with_bandwidth(&ours())] {
            let refusal = kubectl.try_apply(manifest).expect_err("another selector");
            assert!(refusal.contains("immutable"), "{refusal}");
            kubectl.run(&[NAMESPACE, "delete", set, "--cascade=orphan"]);
            kubectl.apply(manifest);
            kubectl.rolled_out();
        }
    });
    for ended in ended {
        assert_eq!(ended.lost, Vec::<u32>::new());
        assert!(ended.lines.is_some(), "a connection broke: {ended:?}");
    }
    later_pods(cluster);
}

/// For the demo.
pub(crate) fn bring_up(cluster: &Cluster) {
    cluster.kubectl.apply(&ours());
    cluster.kubectl.rolled_out();
    cluster.kubectl.nodes_ready();
    populate(&cluster.kubectl);
}
