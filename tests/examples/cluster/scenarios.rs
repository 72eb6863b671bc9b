//! What is tried, by name and in this order: each begins with what the one before has left.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::time::Instant;

use flannel_tests::prelude::*;
use serde_json::json;

use crate::cluster::Cluster;
use crate::kubectl::{Kubectl, LONG};
use crate::manifests::{flannels, ours, with_bandwidth};
use crate::pods::{PORT, limited_pod, list, pod, pod_with_host_port, service};
use crate::traffic::{Ended, Traffic};

/// Of Services.
const WEB: &str = "10.96.1.1";
const ALONE: &str = "10.96.1.2";
const FAR: &str = "10.96.1.3";
const NODE_PORT: u16 = 30080;
const LOCAL_PORT: u16 = 30081;
const HOST_PORT: u16 = 8888;

/// A node's own switch, in packets of twenty a second: neither daemon does better with kube-proxy's and kubelet's load beside it.
const OWN_SWITCH: usize = 20;

const NAMESPACE: &str = "--namespace=kube-flannel";
const CONTAINER: &str = "--container=kube-flannel";

type Scenario = fn(&mut Cluster);

const SCENARIOS: &[(&str, Scenario)] = &[
    ("flannel_serves", flannel_serves),
    ("ours_over_flannel_under_traffic", ours_over_flannel),
    ("nodes_have_a_network", nodes_have_a_network),
    ("pods_reach_each_other", pods_reach_each_other),
    ("tcp_in_bulk", tcp_in_bulk),
    ("pods_reach_the_outside_as_their_node", masquerade),
    ("pods_reach_the_api_server", api_from_a_pod),
    ("cluster_ip", cluster_ip),
    ("node_port", node_port),
    ("external_traffic_policy_local", local_policy),
    ("host_port", host_port),
    ("bandwidth", bandwidth),
    ("status_in_the_pod", status),
    ("rollout_restart_under_traffic", rollout_restart),
    ("pods_that_come_later", later_pods),
    ("reboot_of_a_node", reboot),
    ("node_removed_and_made_again", node_removed),
    ("a_cut_tunnel_is_noticed", cut_tunnel),
    ("back_to_flannel_under_traffic", back_to_flannel),
    ("cleanup_after_it", cleanup),
];

/// The number of the one that ours comes by.
const CHANGE: usize = 1;

/// Those with a wanted part in their names, or all.
pub(crate) fn run(wanted: &[String]) -> ExitCode {
    let mode = std::env::var("FLANNEL_CLUSTER_PROXY").unwrap_or_else(|_| "iptables".to_owned());
    let is_wanted =
        |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    // Whoever wants flannel first wants ours over it, or the others would try flannel.
    let flannel_first = SCENARIOS[..=CHANGE].iter().any(|(name, _)| is_wanted(name));
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
        install(
            &cluster.kubectl,
            &if flannel_first { flannels() } else { ours() },
        );
        populate(&cluster.kubectl);
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

fn install(kubectl: &Kubectl, manifest: &str) {
    kubectl.apply(&with_bandwidth(manifest));
    kubectl.rolled_out();
    kubectl.nodes_ready();
}

fn populate(kubectl: &Kubectl) {
    // Made by the controller manager after the namespace.
    eventually("pods have an account", LONG, || {
        kubectl
            .try_run(&["get", "serviceaccount", "default"])
            .is_ok()
    });
    let local = json!({
        "type": "NodePort",
        "externalTrafficPolicy": "Local",
        "ports": [{"port": PORT, "targetPort": PORT, "nodePort": LOCAL_PORT}],
    });
    let anywhere = json!({
        "type": "NodePort",
        "ports": [{"port": PORT, "targetPort": PORT, "nodePort": NODE_PORT}],
    });
    kubectl.apply(&list(&[
        pod("first", "one"),
        pod("second", "two"),
        service("web", &json!({"app": "web"}), WEB, &json!({})),
        service("alone", &json!({"pod": "first"}), ALONE, &local),
        service("far", &json!({"pod": "second"}), FAR, &anywhere),
    ]));
    kubectl.pods_ready();
}

fn flannel_serves(cluster: &mut Cluster) {
    pods_reach_each_other(cluster);
    cluster_ip(cluster);
    // Whether this kernel and this containerd limit at all.
    bandwidth(cluster);
}

fn ours_over_flannel(cluster: &mut Cluster) {
    change(cluster, &ours());
}

fn back_to_flannel(cluster: &mut Cluster) {
    change(cluster, &flannels());
    pods_reach_each_other(cluster);
}

/// As docs/kubernetes.md has it: nothing of ours stays, and flannel is not disturbed.
fn cleanup(cluster: &mut Cluster) {
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
fn change(cluster: &Cluster, manifest: &str) {
    for ended in under_traffic(cluster, || install(&cluster.kubectl, manifest)) {
        let allowed = OWN_SWITCH * cluster.machines.len();
        assert!(ended.lost.len() <= allowed, "{ended:?}");
        assert!(ended.lines.is_some(), "a connection broke: {ended:?}");
    }
}

/// Traffic of either node's pod with the other, with a Service and with the outside, while `work` is done.
fn under_traffic(cluster: &Cluster, work: impl FnOnce()) -> Vec<Ended> {
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

/// What the agent says of it to Kubernetes.
fn nodes_have_a_network(cluster: &mut Cluster) {
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

fn pods_reach_each_other(cluster: &mut Cluster) {
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

fn tcp_in_bulk(cluster: &mut Cluster) {
    let kubectl = &cluster.kubectl;
    let rates = iperf(kubectl, "first", "second", 3);
    println!("   Gb/s in each second: {}", shown(&rates, 1e9));
    assert!(rates.iter().all(|rate| *rate > 1e8), "{rates:?} b/s");
}

/// Bits in each second.
fn iperf(kubectl: &Kubectl, from: &str, to: &str, seconds: u32) -> Vec<f64> {
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

fn shown(rates: &[f64], of: f64) -> String {
    let rates = rates.iter().map(|rate| format!("{:.1}", rate / of));
    rates.collect::<Vec<_>>().join(" ")
}

fn masquerade(cluster: &mut Cluster) {
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
fn api_from_a_pod(cluster: &mut Cluster) {
    let account = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";
    for pod in ["first", "second"] {
        let script = format!(
            "curl --silent --show-error --max-time 20 --cacert {account} https://10.96.0.1/version"
        );
        assert!(cluster.kubectl.exec(pod, &script).contains("gitVersion"));
    }
}

fn cluster_ip(cluster: &mut Cluster) {
    for pod in ["first", "second"] {
        // By chance either: as often as it takes to have met both.
        let mut met = std::collections::BTreeSet::new();
        eventually("both pods answer for the Service", LONG, || {
            let said = asked(&cluster.kubectl, pod, WEB, PORT);
            met.extend(said.split(' ').next().map(str::to_owned));
            ["first", "second"].iter().all(|name| met.contains(*name))
        });
        // Itself too, for the first.
        assert!(asked(&cluster.kubectl, pod, ALONE, PORT).starts_with("first "));
    }
}

fn node_port(cluster: &mut Cluster) {
    let outside = &cluster.outside;
    for machine in &cluster.machines {
        let said = from_outside(outside, &machine.address().to_string(), NODE_PORT);
        assert!(
            said.as_deref().is_ok_and(|it| it.starts_with("second ")),
            "{said:?}"
        );
    }
}

/// The node with the pod serves, and shows who asks; the other does not.
fn local_policy(cluster: &mut Cluster) {
    let outside = &cluster.outside;
    let [one, two] = &cluster.machines;
    let said = from_outside(outside, &one.address().to_string(), LOCAL_PORT);
    assert_eq!(said, Ok(format!("first {}", outside.address())));
    let said = from_outside(outside, &two.address().to_string(), LOCAL_PORT);
    assert!(said.is_err(), "{said:?}");
}

fn host_port(cluster: &mut Cluster) {
    let kubectl = &cluster.kubectl;
    kubectl.apply(&list(&[pod_with_host_port("reached", "two", HOST_PORT)]));
    kubectl.pods_ready();
    let outside = &cluster.outside;
    let [_, two] = &cluster.machines;
    let address = two.address().to_string();
    let said = from_outside(outside, &address, HOST_PORT);
    assert_eq!(said, Ok(format!("reached {}", outside.address())));
    assert!(asked(kubectl, "first", &address, HOST_PORT).starts_with("reached "));
    kubectl.run(&["delete", "pod", "reached", "--wait"]);
    eventually("the port is closed", LONG, || {
        from_outside(outside, &address, HOST_PORT).is_err()
    });
}

fn bandwidth(cluster: &mut Cluster) {
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

fn status(cluster: &mut Cluster) {
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

fn rollout_restart(cluster: &mut Cluster) {
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

/// Put there by the plugin that the restarted pods have installed.
fn later_pods(cluster: &mut Cluster) {
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

/// Everything of it but its disk is new.
fn reboot(cluster: &mut Cluster) {
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
fn node_removed(cluster: &mut Cluster) {
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

/// The control of all that is above: without the tunnel nothing of it holds, and it is not between pods of one node.
fn cut_tunnel(cluster: &mut Cluster) {
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

/// Who answers, and whom he sees.
fn try_ask(kubectl: &Kubectl, pod: &str, address: &str, port: u16) -> Result<String, String> {
    let said = kubectl.try_exec(pod, &question(address, port))?;
    Ok(said.trim().to_owned())
}

#[track_caller]
fn asked(kubectl: &Kubectl, pod: &str, address: &str, port: u16) -> String {
    try_ask(kubectl, pod, address, port)
        .unwrap_or_else(|e| panic!("{pod} asks {address}:{port}: {e}"))
}

fn from_outside(outside: &Outside, address: &str, port: u16) -> Result<String, String> {
    let mut command: Command = outside.netns().command("bash");
    let output = command.args(["-c", &question(address, port)]).output();
    let output = output.expect("start bash");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn question(address: &str, port: u16) -> String {
    let ask = format!("exec 3<> /dev/tcp/{address}/{port} && read -r line <&3 && echo \"$line\"");
    format!("timeout 15 bash -c '{ask}'")
}

/// For the demo.
pub(crate) fn bring_up(cluster: &Cluster) {
    cluster.kubectl.apply(&ours());
    cluster.kubectl.rolled_out();
    cluster.kubectl.nodes_ready();
    populate(&cluster.kubectl);
}
