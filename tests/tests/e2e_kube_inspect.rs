//! `doctor`, `plan`, `status` and `debug bundle` beside the Kubernetes API.

#![cfg(test)]

use std::process::Output;

use flannel_tests::agent::command;
use flannel_tests::kube_api::KubeApi;
use flannel_tests::netns::output;
use flannel_tests::prelude::*;
use serde_json::json;

struct Stage {
    _lab: Lab,
    api: KubeApi,
    ours: Agent,
    flags: Vec<String>,
}

fn stage() -> Stage {
    let lab = Lab::new();
    let net = Network::vxlan("/coreos.com/network", "10.244.0.0/16");
    let api = KubeApi::start(&lab);
    api.add_node("one", &["10.244.1.0/24"]);
    let mut flags = api.flags(&net);
    let given: Vec<&str> = flags.iter().map(String::as_str).collect();
    let ours = Agent::start_with(lab.node("one"), &net, &given);
    let node = ours.node();
    flags.extend([
        format!("--iface={}", Node::UPLINK),
        format!("--bpffs={}", node.bpffs().display()),
        format!("--state-dir={}", node.state_dir().display()),
        format!("--subnet-file={}", ours.subnet_file().display()),
    ]);
    Stage {
        _lab: lab,
        api,
        ours,
        flags,
    }
}

impl Stage {
    fn ask(&self, verb: &[&str]) -> (Output, String) {
        let flags = self.flags.iter().map(String::as_str);
        let all: Vec<&str> = verb.iter().copied().chain(flags).collect();
        let mut command = command(self.ours.node(), &all);
        command.env("NODE_NAME", "one");
        let output = output(&mut command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output, text)
    }
}

#[test]
fn doctor_asks_for_version_clock_rights_and_pod_cidr() {
    let stage = stage();
    let (_, text) = stage.ask(&["doctor"]);
    for line in [
        "the API server answers, version v1.34.4",
        "the API server answers, and its clock agrees",
        "its ClusterRole allows all that is needed",
        "Node one has podCIDR 10.244.1.0/24",
        "Node one publishes 172.30.0.11",
        "net-conf.json: network 10.244.0.0/16, backend vxlan",
    ] {
        let is_fine = |said: &str| said.trim_start().starts_with('✓') && said.contains(line);
        assert!(text.lines().any(is_fine), "{line}: {text}");
    }
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "flannel"},
                      "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]});
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/flannel";
    stage
        .api
        .request("PUT", path, Some(&role.to_string()))
        .expect("replace the role");
    eventually("doctor misses three rights", SOON, || {
        let (_, text) = stage.ask(&["doctor"]);
        text.contains("not allowed: list nodes, watch nodes, patch nodes/status")
    });
    stage.api.kill();
    let (output, text) = stage.ask(&["doctor"]);
    assert!(text.contains("does not answer"), "{text}");
    assert_eq!(output.status.code(), Some(2), "{text}");
}

/// The others have dropped it, although it forwards as before.
#[test]
fn status_says_that_the_node_is_gone_from_kubernetes() {
    let stage = stage();
    let node = stage.ours.node();
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let state = format!("--state-dir={}", node.state_dir().display());
    let status = || {
        let output = output(&mut command(node, &["status", &bpffs, &state]));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    };
    let gone = "Node one is gone from Kubernetes";
    let well = || {
        let (code, text) = status();
        code == Some(0) && !text.contains(gone)
    };
    eventually("all is well", SOON, well);
    stage.api.delete_node("one");
    // Written down with the next look at the node.
    eventually("it is said", 4 * SOON, || {
        let (code, text) = status();
        code == Some(1) && text.contains(&format!("! {gone}"))
    });
    let (_, text) = status();
    let kept = "10.244.1.0/24, this Node's podCIDR in Kubernetes; kept, although Node one is gone";
    assert!(text.contains(kept), "{text}");
    stage.api.add_node("one", &["10.244.1.0/24"]);
    eventually("all is well again", 4 * SOON, well);
}

#[test]
fn plan_says_what_a_start_would_write() {
    let mut stage = stage();
    eventually("nothing is left to do", SOON, || {
        stage.ask(&["plan"]).1.contains("nothing to do")
    });
    stage.ours.terminate();
    stage.api.annotate("one", "public-ip", "192.0.2.99");
    let (_, text) = stage.ask(&["plan"]);
    assert!(
        text.contains("rewrite the lease 10.244.1.0/24") && text.contains("192.0.2.99"),
        "{text}"
    );
    let (_, text) = stage.ask(&["plan", "-o", "json"]);
    let plan: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(plan["steps"][0]["place"], "kubernetes", "{text}");
    assert_eq!(
        stage.api.annotation("one", "public-ip").as_deref(),
        Some("192.0.2.99")
    );
}

#[test]
fn status_names_the_source() {
    let stage = stage();
    let (_, text) = stage.ask(&["status"]);
    assert!(
        text.contains("10.244.1.0/24, this Node's podCIDR in Kubernetes"),
        "{text}"
    );
}

/// The token is in nothing that is passed on.
#[test]
fn a_bundle_knows_the_source_and_no_token() {
    let stage = stage();
    let folder = tempfile::tempdir().expect("a folder");
    let to = format!("--to={}", folder.path().join("bundle").display());
    let (output, _) = stage.ask(&["debug", "bundle", &to]);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut all = String::new();
    let entries = std::fs::read_dir(folder.path().join("bundle"));
    for entry in entries.unwrap_or_else(|error| panic!("{error}: {stderr}")) {
        let path = entry.expect("an entry").path();
        all += &std::fs::read_to_string(path).unwrap_or_default();
    }
    for text in [
        "Node one has podCIDR",
        "this Node's podCIDR",
        "kube-subnet-mgr",
    ] {
        assert!(all.contains(text), "{text}: {all}");
    }
    assert!(!all.contains(flannel_tests::kube_api::FLANNEL));
}
