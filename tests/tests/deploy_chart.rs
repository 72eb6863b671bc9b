//! The shipped chart: what helm makes of it, and what it refuses.

#![cfg(test)]

use flannel_tests::helm::Helm;
use flannel_tests::kube_api::KubeApi;
use flannel_tests::manifest::{create, deployed, name, object, shipped, try_create};
use flannel_tests::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

fn rendered(values: &str) -> Vec<Value> {
    let objects = Helm::new().template(values);
    objects.unwrap_or_else(|error| panic!("{values}: {error}"))
}

/// The pod's specification with these values.
fn pod(values: &str) -> Value {
    let objects = rendered(values);
    object(&objects, "DaemonSet")["spec"]["template"]["spec"].clone()
}

fn net_conf(values: &str) -> Value {
    let objects = rendered(values);
    let text = object(&objects, "ConfigMap")["data"]["net-conf.json"].clone();
    serde_json::from_str(text.as_str().unwrap()).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn by_name(objects: Vec<Value>) -> Vec<(String, Value)> {
    let mut named: Vec<_> = objects.into_iter().map(|o| (name(&o), o)).collect();
    named.sort_by(|(one, _), (other, _)| one.cmp(other));
    named
}

/// Of flannel's release manifest, and of ours.
const MANIFESTS: &str = "ebpf: {selector: {k8s-app: flannel}}";

/// With its selector either may be installed over the other. The namespace is helm's business (`--create-namespace`).
#[test]
fn with_the_manifests_selector_it_is_the_manifest() {
    let mut shipped = shipped();
    shipped.retain(|object| object["kind"] != "Namespace");
    for ((name, ours), (_, theirs)) in by_name(rendered(MANIFESTS))
        .iter()
        .zip(by_name(shipped.clone()))
    {
        assert_eq!(*ours, theirs, "{name}");
    }
    assert_eq!(rendered(MANIFESTS).len(), shipped.len());
}

/// By flannel's own chart, and by what flannel releases (`commonLabels` of its kustomization.yaml): each may be followed by ours.
#[rstest]
#[case::chart("", json!({"app": "flannel"}))]
#[case::manifest(MANIFESTS, json!({"app": "flannel", "k8s-app": "flannel"}))]
fn its_selector_is_that_of_the_flannel_before_it(#[case] values: &str, #[case] selector: Value) {
    let objects = rendered(values);
    let spec = &object(&objects, "DaemonSet")["spec"];
    assert_eq!(spec["selector"], json!({"matchLabels": selector}));
    let labels = &spec["template"]["metadata"]["labels"];
    for (label, value) in selector.as_object().unwrap() {
        assert_eq!(labels[label], *value, "{label}");
    }
}

/// Each of our own values, and of flannel's those that change something.
const MANY: &str = "
global: {imagePullSecrets: [{name: registry}]}
podCidr: 10.1.0.0/16
flannel:
  image: {repository: example.com/agent, tag: v1, pullPolicy: Always}
  flannel_cni: {image: {repository: example.com/plugin}}
  cniBinDir: /usr/libexec/cni
  cniConfDir: /etc/kubernetes/cni/net.d
  args: [--kube-subnet-mgr, --iface=eth1, --ip-masq]
  backendPort: 4789
  vni: 4096
  mtu: 9000
  directRouting: true
  GBP: true
  macPrefix: 0E-2B
  cniConf: '{\"name\":\"other\"}'
  resources: {limits: {memory: 100Mi}}
  healthz: {port: 9091, livenessProbe: {periodSeconds: 7}}
  tolerations: [{operator: Exists}]
  nodeSelector: {pool: a}
  priorityClassName: \"\"
ebpf: {fastPath: \"off\", podHook: bridge, xdp: \"on\", gro: none, sourceCheck: strict, tunnelFirewall: ask, snatPorts: 50000-60000,
  snatExempt: [192.0.2.0/24, 198.51.100.7/32]}
";

/// The field came with Kubernetes 1.30, and an API server refuses what it does not know.
#[test]
fn an_older_cluster_gets_an_annotation() {
    let template = |version| {
        let objects = Helm::new().template_for(version, "").unwrap();
        object(&objects, "DaemonSet")["spec"]["template"].clone()
    };
    let profile =
        |pod: &Value| pod["spec"]["containers"][0]["securityContext"]["appArmorProfile"].clone();
    let old = template("v1.29.15");
    let annotation = "container.apparmor.security.beta.kubernetes.io/kube-flannel";
    assert_eq!(old["metadata"]["annotations"][annotation], "unconfined");
    assert_eq!(profile(&old), Value::Null);
    let new = template("v1.30.0");
    assert_eq!(new["metadata"]["annotations"], Value::Null);
    assert_eq!(profile(&new)["type"], "Unconfined");
}

#[test]
fn values_are_where_they_belong() {
    let pod = pod(MANY);
    assert_eq!(
        pod["containers"][0]["args"],
        json!([
            "--kube-subnet-mgr",
            "--iface=eth1",
            "--ip-masq",
            "--fast-path=off",
            "--gro=none",
            "--healthz-port=9091",
            "--pod-hook=bridge",
            "--snat-exempt=192.0.2.0/24,198.51.100.7/32",
            "--snat-ports=50000-60000",
            "--source-check=strict",
            "--tunnel-firewall=ask",
            "--xdp=on",
        ])
    );
    let images = ["/initContainers/0", "/initContainers/1", "/containers/0"];
    let images = images.map(|container| {
        let image = |field: &str| pod.pointer(&format!("{container}/{field}")).unwrap();
        (image("image").clone(), image("imagePullPolicy").clone())
    });
    let [plugin, conf, agent] = &images;
    assert_eq!(*plugin, (json!("example.com/plugin:v1"), json!("Always")));
    assert_eq!(*agent, (json!("example.com/agent:v1"), json!("Always")));
    assert_eq!(conf, agent);
    let probe = &pod["containers"][0]["livenessProbe"];
    assert_eq!(probe["periodSeconds"], 7);
    assert_eq!(probe["initialDelaySeconds"], 10, "by default");
    assert_eq!(pod["containers"][0]["ports"][0]["containerPort"], 9091);
    let volume = |name: &str| {
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == name);
        volume.unwrap()["hostPath"]["path"].clone()
    };
    assert_eq!(volume("cni-plugin"), "/usr/libexec/cni");
    assert_eq!(volume("cni"), "/etc/kubernetes/cni/net.d");
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(pod["nodeSelector"], json!({"pool": "a"}));
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "registry"}]));
    assert_eq!(pod["priorityClassName"], Value::Null);
    let limits = &pod["containers"][0]["resources"]["limits"];
    assert_eq!(*limits, json!({"memory": "100Mi"}));
    let expected = json!({"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan", "Port": 4789, "VNI": 4096, "MTU": 9000,
        "DirectRouting": true, "GBP": true, "MacPrefix": "0E-2B"}});
    assert_eq!(net_conf(MANY), expected);
    let objects = rendered(MANY);
    let config = object(&objects, "ConfigMap");
    assert_eq!(config["data"]["cni-conf.json"], r#"{"name":"other"}"#);
}

#[rstest]
#[case::host_gw("flannel: {backend: host-gw}", json!({"Type": "host-gw"}))]
#[case::alloc("flannel: {backend: alloc}", json!({"Type": "alloc"}))]
#[case::udp("flannel: {backend: udp}", json!({"Type": "udp"}))]
#[case::udp_elsewhere("flannel: {backend: udp, backendPort: 7000}", json!({"Type": "udp", "Port": 7000}))]
#[case::ipip("flannel: {backend: ipip}", json!({"Type": "ipip"}))]
#[case::ipip_directly("flannel: {backend: ipip, directRouting: true}", json!({"Type": "ipip", "DirectRouting": true}))]
#[case::commands(
    "{flannel: {backend: extension}, ebpf: {extension: {subnetAddCommand: ip route add $SUBNET via $PUBLIC_IP}}}",
    json!({"Type": "extension", "SubnetAddCommand": "ip route add $SUBNET via $PUBLIC_IP"})
)]
fn each_backend_has_its_own_options(#[case] values: &str, #[case] backend: Value) {
    let expected = json!({"Network": "10.244.0.0/16", "Backend": backend});
    assert_eq!(net_conf(values), expected);
}

#[test]
fn wireguard_has_its_own_options() {
    let all = "flannel: {backend: wireguard, backendPort: 7, backendPortv6: 8, mtu: 1400, psk: secret, tunnelMode: auto, keepaliveInterval: 25}";
    let backend = json!({"Type": "wireguard", "ListenPort": 7, "ListenPortV6": 8, "MTU": 1400, "PSK": "secret", "Mode": "auto",
        "PersistentKeepaliveInterval": 25});
    assert_eq!(net_conf(all)["Backend"], backend);
    let none = json!({"Type": "wireguard"});
    assert_eq!(net_conf("flannel: {backend: wireguard}")["Backend"], none);
}

#[test]
fn a_cni_configuration_from_elsewhere_is_left_alone() {
    let pod = pod("flannel: {skipCNIConfigInstallation: true}");
    let containers = pod["initContainers"].as_array().unwrap();
    assert_eq!(containers.len(), 1, "{containers:?}");
    assert!(!pod.to_string().contains("/etc/cni/net.d"), "{pod}");
}

#[test]
fn without_a_port_there_are_no_probes() {
    let container = pod("flannel: {healthz: {port: 0}}")["containers"][0].clone();
    for field in ["ports", "livenessProbe", "readinessProbe"] {
        assert_eq!(container[field], Value::Null, "{field}");
    }
    assert_eq!(container["args"], json!(["--ip-masq", "--kube-subnet-mgr"]));
}

/// Which pods, where, and whose name nodes have in alerts and panels.
#[test]
fn metrics_are_asked_for_by_the_nodes_names() {
    let objects = rendered("metrics: {podMonitor: {enabled: true, labels: {release: prometheus}}}");
    let monitor = object(&objects, "PodMonitor");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    let set = object(&objects, "DaemonSet");
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    let selected = monitor["spec"]["selector"]["matchLabels"].as_object();
    for (label, value) in selected.unwrap() {
        assert_eq!(labels[label], *value, "{label}");
    }
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    let port = &set["spec"]["template"]["spec"]["containers"][0]["ports"][0];
    assert_eq!(endpoint["port"], port["name"]);
    assert_eq!(endpoint["path"], "/metrics");
    let relabeling =
        json!({"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "instance"});
    assert_eq!(endpoint["relabelings"], json!([relabeling]));
}

/// What nodes are called in them, the rules' own test looks at.
#[test]
fn alerts_are_the_shipped_file() {
    let objects = rendered("metrics: {prometheusRule: {enabled: true, labels: {release: p}}}");
    let rule = object(&objects, "PrometheusRule");
    assert_eq!(rule["metadata"]["labels"]["release"], "p");
    let file = std::fs::read_to_string(deployed("charts/flannel-ebpf/files/alerts.yaml")).unwrap();
    let shipped: Value = serde_saphyr::from_str(&file).unwrap();
    assert_eq!(rule["spec"], shipped);
}

#[rstest]
#[case("podCidr: ''", "podCidr is empty")]
#[case("podCidrv6: fd00::/48", "IPv6 is not supported yet")]
#[case("netpol: {enabled: true}", "brings no policy engine")]
#[case("flannel: {image_cni: {tag: v1}}", "it is flannel.flannel_cni.image")]
#[case("flannel: {enableNFTables: true}", "takes no rule here")]
#[case(
    "flannel: {image: {repository: example.com/flannel-ebpf, tag: v0.28.9}}",
    "which is flannel's"
)]
#[case(
    "flannel: {image: {repository: ghcr.io/flannel-io/flannel, tag: v0.28.9}}",
    "has no flannel-agent"
)]
#[case(
    "flannel: {flannel_cni: {image: {tag: v1.9.1-flannel3}}}",
    "give both, or none"
)]
#[case("flannel: {backend: ipsec}", "write vxlan, host-gw")]
#[case(
    "flannel: {backend: udp, vni: 5}",
    "flannel.vni is set: the backend udp"
)]
#[case(
    "flannel: {backend: udp, directRouting: true}",
    "flannel.directRouting is set"
)]
#[case(
    "flannel: {backend: ipip, backendPort: 5}",
    "flannel.backendPort is set: the backend ipip"
)]
#[case(
    "{flannel: {backend: ipip}, ebpf: {gro: anchor}}",
    "flannel.backend is ipip"
)]
#[case(
    "{flannel: {backend: udp}, ebpf: {xdp: \"on\"}}",
    "flannel.backend is udp"
)]
#[case(
    "{flannel: {backend: alloc}, ebpf: {sourceCheck: strict}}",
    "and alloc has none"
)]
#[case(
    "ebpf: {extension: {preStartupCommand: hostname}}",
    "ebpf.extension is set"
)]
#[case(
    "{flannel: {backend: extension}, ebpf: {extension: {command: hostname}}}",
    "/ebpf/extension"
)]
#[case(
    "flannel: {backend: wireguard, vni: 5}",
    "flannel.vni is set: the backend wireguard"
)]
#[case(
    "{flannel: {backend: wireguard}, ebpf: {xdp: auto}}",
    "with wireguard the kernel makes them"
)]
#[case(
    "{flannel: {GBP: true}, ebpf: {gro: anchor}}",
    "flannel.GBP is true, and ebpf.gro is anchor"
)]
#[case("flannel: {backend: host-gw, GBP: true}", "flannel.GBP is set")]
#[case(
    "flannel: {psk: x}",
    "flannel.psk is set: the backend vxlan has no such option"
)]
#[case("flannel: {backendPortv6: 51821}", "flannel.backendPortv6 is set")]
#[case("flannel: {tunnelMode: auto}", "flannel.tunnelMode is set")]
#[case("flannel: {keepaliveInterval: 5}", "flannel.keepaliveInterval is set")]
#[case(
    "flannel: {backend: host-gw, vni: 5}",
    "the backend host-gw has no such option"
)]
#[case(
    "{flannel: {backend: host-gw}, ebpf: {gro: anchor}}",
    "ebpf.gro is set: it is about tunnel packets"
)]
#[case(
    "{flannel: {args: [--kube-subnet-mgr, --ip-masq=false]}, ebpf: {snatPorts: 40000-50000}}",
    "flannel.args has no --ip-masq"
)]
#[case(
    "flannel: {args: [--healthz-port=1]}",
    "flannel.args has --healthz-port=1"
)]
#[case(
    "{flannel: {args: [-xdp, auto]}, ebpf: {xdp: auto}}",
    "flannel.args has -xdp"
)]
#[case(
    "{flannel: {healthz: {port: 0}}, metrics: {podMonitor: {enabled: true}}}",
    "served at that port"
)]
// By the schema.
#[case("flannel: {backend_port: 1}", "backend_port")]
#[case("flannel: {vni: 16777216}", "/flannel/vni")]
#[case("ebpf: {xdp: sometimes}", "/ebpf/xdp")]
#[case("ebpf: {selector: {app: other}}", "/ebpf/selector/app")]
#[case("ebpf: {selector: {tier: node}}", "/ebpf/selector")]
#[case("ebpf: {snatExempt: [all]}", "/ebpf/snatExempt/0")]
#[case("netpool: {}", "netpool")]
fn what_has_no_meaning_is_refused(#[case] values: &str, #[case] why: &str) {
    let refusal = Helm::new().template(values).expect_err(values);
    assert!(refusal.contains(why), "{values}: {refusal}");
}

/// What flannel's values say by default is no reason to refuse.
#[test]
fn flannels_own_defaults_are_taken() {
    let values = "
global: {imagePullSecrets: null}
podCidrv6: ''
flannel: {enableNFTables: false, GBP: false, psk: null}
netpol: {enabled: false, args: [--v=2], image: {repository: example.com/netpol, tag: v1}}
";
    assert_eq!(rendered(values), rendered(""));
}

const METRICS: &str = "metrics: {podMonitor: {enabled: true}, prometheusRule: {enabled: true}}";

#[test]
fn helm_finds_no_fault_in_it() {
    for values in ["", MANY, METRICS] {
        let (is_content, said) = Helm::new().lint(values);
        assert!(is_content, "{values}: {said}");
    }
}

#[test]
fn a_real_api_server_takes_it() {
    let lab = Lab::new();
    let api = KubeApi::start(&lab);
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    for other in ["clusterrolebindings/flannel", "clusterroles/flannel"] {
        api.request("DELETE", &format!("{rbac}/{other}"), None)
            .expect("the harness' own rights are there");
    }
    create(&api, object(&shipped(), "Namespace"));
    for values in ["", MANY] {
        for object in &rendered(values) {
            try_create(&api, object).unwrap_or_else(|error| panic!("{values}: {error}"));
        }
    }
    // It does look: a field that it does not know is refused.
    let mut wrong = object(&rendered(""), "DaemonSet").clone();
    wrong["spec"]["template"]["spec"]["tolerance"] = json!([]);
    let refusal = try_create(&api, &wrong).expect_err("an unknown field");
    assert!(refusal.contains("tolerance"), "{refusal}");
}
