//! `cargo xtask demo --kubernetes`.

use crate::cluster::Cluster;
use crate::scenarios;

pub(crate) fn show() {
    let step = |title: &str| println!("\n== {title}");
    step("A Kubernetes of two nodes: kubelet, containerd and kube-proxy on each");
    let cluster = Cluster::start("iptables");
    let show = |args: &[&str]| {
        println!("   # kubectl {}", args.join(" "));
        for line in cluster.kubectl.run(args).lines() {
            println!("   {line}");
        }
    };
    show(&["get", "nodes"]);

    step("kubectl apply -f deploy/kube-flannel-ebpf.yaml, and two pods");
    scenarios::bring_up(&cluster);
    show(&["get", "nodes", "--output=wide"]);
    show(&["get", "pods", "--all-namespaces", "--output=wide"]);

    step("What the agents say");
    let set = "daemonset/kube-flannel-ds";
    show(&[
        "--namespace=kube-flannel",
        "exec",
        set,
        "--container=kube-flannel",
        "--",
        "flannel-agent",
        "status",
    ]);

    step("A ping from pod to pod, and the Service of both");
    let second = cluster.kubectl.address("second");
    show(&["exec", "first", "--", "ping", "-c", "3", &second]);
    show(&["get", "services,endpointslices"]);

    step("Taking everything down");
}
