//! The shipped Kubernetes manifest, given to a real API server.

#![cfg(test)]

use flannel_tests::kube_api::KubeApi;
use flannel_tests::manifest::{create, deployed, name, object, shipped};
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::start;
use serde_json::{Value, json};

/// flannel's own names and labels: an apply over it changes those objects and adds none.
#[test]
fn the_objects_are_flannels() {
    let objects = shipped();
    assert_eq!(
        objects.iter().map(name).collect::<Vec<_>>(),
        [
            "Namespace/kube-flannel",
            "ServiceAccount/flannel",
            "ClusterRole/flannel",
            "ClusterRoleBinding/flannel",
            "ConfigMap/kube-flannel-cfg",
            "DaemonSet/kube-flannel-ds",
        ]
    );
    let set = object(&objects, "DaemonSet");
    let containers = &set["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers[0]["name"], "kube-flannel");
}

/// The selector of a DaemonSet cannot be changed. People have that of flannel's releases, to which `commonLabels` of flannel's
/// kustomization.yaml adds a label that the file in its sources has not.
#[test]
fn it_goes_over_flannels_release_and_back() {
    let lab = Lab::new();
    let api = KubeApi::start(&lab);
    let objects = shipped();
    create(&api, object(&objects, "Namespace"));
    let ours = object(&objects, "DaemonSet");
    let with = |selector: Value| {
        let mut theirs = ours.clone();
        theirs["spec"]["selector"]["matchLabels"] = selector;
        theirs["spec"]["template"]["spec"]["containers"][0]["image"] = json!("flannel");
        theirs
    };
    let released = with(json!({"app": "flannel", "k8s-app": "flannel"}));
    create(&api, &released);
    let path = "/apis/apps/v1/namespaces/kube-flannel/daemonsets/kube-flannel-ds";
    let put = |set: &Value| api.request("PUT", path, Some(&set.to_string()));
    for set in [ours, &released] {
        put(set).expect("either over the other");
    }
    // It does look.
    let refusal = put(&with(json!({"app": "flannel"}))).expect_err("another selector");
    assert!(refusal.contains("immutable"), "{refusal}");
}

/// The command of docs/kubernetes.md that takes ours off a node: each folder of the host's in which the agent leaves something is named.
#[test]
fn the_documented_cleanup_looks_where_the_agent_writes() {
    let page = std::fs::read_to_string(deployed("../docs/kubernetes.md")).expect("the page");
    let (_, command) = page
        .split_once("flannel-agent cleanup")
        .expect("the command");
    let (command, _) = command.split_once("```").expect("its end");
    let objects = shipped();
    let pod = &object(&objects, "DaemonSet")["spec"]["template"]["spec"];
    for name in ["bpffs", "run", "snapshot"] {
        let mut volumes = pod["volumes"].as_array().expect("a list").iter();
        let volume = volumes.find(|volume| volume["name"] == name);
        let path = volume.expect(name)["hostPath"]["path"].as_str();
        let flag = format!("=/host{}", path.expect("a path"));
        assert!(
            command.split_whitespace().any(|word| word.ends_with(&flag)),
            "{flag}: {command}"
        );
    }
}

/// Where SELinux is enforced, a container's own type may not write to the host's folders.
#[test]
fn init_containers_may_write_where_they_install() {
    let objects = shipped();
    let pod = &object(&objects, "DaemonSet")["spec"]["template"]["spec"];
    for container in pod["initContainers"].as_array().expect("a list") {
        let context = &container["securityContext"];
        let of_the_host = json!({"type": "spc_t", "level": "s0"});
        assert_eq!(context["seLinuxOptions"], of_the_host, "{container}");
        let capabilities = json!({"drop": ["ALL"], "add": ["DAC_OVERRIDE"]});
        assert_eq!(context["capabilities"], capabilities, "{container}");
    }
}

/// Every field is one that the API server knows, and the agent runs with the rights, the arguments and the network of the manifest.
/// Capabilities in the place of `privileged`, and what a container has no right to otherwise: the host's sysctls.
#[test]
fn the_agent_has_what_it_needs_and_no_more() {
    let objects = shipped();
    let pod = &object(&objects, "DaemonSet")["spec"]["template"]["spec"];
    let agent = &pod["containers"][0];
    let context = &agent["securityContext"];
    assert_eq!(context["privileged"], Value::Null);
    let wanted =
        json!({"drop": ["ALL"], "add": ["BPF", "PERFMON", "NET_ADMIN", "NET_RAW", "SYS_ADMIN"]});
    assert_eq!(context["capabilities"], wanted);
    let found = |list: &Value, value| list.as_array().expect("a list").contains(&value);
    let mount = json!({"name": "proc-sys-net", "mountPath": "/host/proc/sys/net"});
    assert!(found(&agent["volumeMounts"], mount), "{agent}");
    let volume =
        json!({"name": "proc-sys-net", "hostPath": {"path": "/proc/sys/net", "type": "Directory"}});
    assert!(found(&pod["volumes"], volume), "{pod}");
}

#[test]
fn k2_a_real_api_server_takes_it_and_the_agent_runs_by_it() {
    let lab = Lab::new();
    let api = KubeApi::start(&lab);
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    for other in ["clusterrolebindings/flannel", "clusterroles/flannel"] {
        api.request("DELETE", &format!("{rbac}/{other}"), None)
            .expect("the harness' own rights are there");
    }
    let objects = shipped();
    for object in &objects {
        create(&api, object);
    }
    let set = object(&objects, "DaemonSet");
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let args = container["args"].as_array().expect("args").iter();
    let args = args.map(|arg| arg.as_str().expect("text").to_owned());
    let config = object(&objects, "ConfigMap")["data"]["net-conf.json"]
        .as_str()
        .expect("text");
    let conf = lab.folder().join("net-conf.json");
    std::fs::write(&conf, config).expect("write net-conf.json");
    // The harness chooses the port, and a node of a test is in no pod.
    let mut flags: Vec<String> = args
        .filter(|arg| !arg.starts_with("--healthz-port"))
        .collect();
    flags.push(format!("--kubeconfig-file={}", api.kubeconfig().display()));
    flags.push(format!("--net-config-path={}", conf.display()));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let net = Network::vxlan("/coreos.com/network", "10.244.0.0/16");
    api.add_node("one", &["10.244.7.0/24"]);
    let ours = start(Kind::Ours, lab.node("one"), &net, &flags);
    assert_eq!(ours.subnet().to_string(), "10.244.7.0/24");
    eventually("its Node has a network", SOON, || {
        api.network_unavailable("one")
            .is_some_and(|[status, ..]| status == "False")
    });
    assert_eq!(
        api.annotation("one", "backend-type").as_deref(),
        Some("vxlan")
    );
}
