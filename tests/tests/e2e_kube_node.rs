//! The Kubernetes API as datastore: what happens to this node's own Node.

#![cfg(test)]

use flannel_tests::kube_api::KubeApi;
use flannel_tests::kube_client::PREFIX;
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::{spawn, start};
use rstest::rstest;
use serde_json::{Value, json};

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

struct Stage {
    lab: Lab,
    api: KubeApi,
    net: Network,
    flags: Vec<String>,
}

fn stage() -> Stage {
    let (lab, net) = (Lab::new(), vxlan());
    let api = KubeApi::start(&lab);
    let flags = api.flags(&net);
    Stage {
        lab,
        api,
        net,
        flags,
    }
}

impl Stage {
    fn flags(&self) -> Vec<&str> {
        self.flags.iter().map(String::as_str).collect()
    }

    fn start(&self, kind: Kind) -> AnyDaemon {
        start(kind, self.lab.node("one"), &self.net, &self.flags())
    }

    fn spawn(&self) -> AnyDaemon {
        spawn(Kind::Ours, self.lab.node("one"), &self.net, &self.flags())
    }

    fn mac(&self) -> String {
        let data = self
            .api
            .annotation("one", "backend-data")
            .expect("backend-data");
        let data: Value = serde_json::from_str(&data).expect("JSON");
        data["VtepMAC"].as_str().expect("a MAC").to_owned()
    }
}

#[track_caller]
fn says(daemon: &AnyDaemon, text: &str) {
    eventually(format!("the log says {text:?}"), SOON, || {
        daemon.log().contains(text)
    });
}

/// flanneld ends after a while; who assigns it is somebody else's start.
#[test]
fn a_pod_cidr_that_comes_late_is_waited_for() {
    let stage = stage();
    let mut ours = stage.spawn();
    says(&ours, "there is no Node one: the kubelet makes it");
    stage.api.add_node("one", &[]);
    says(
        &ours,
        "has no podCIDR yet: kube-controller-manager assigns it",
    );
    stage.api.assign("one", "10.244.7.0/24");
    ours.wait_until_ready();
    assert_eq!(ours.subnet().to_string(), "10.244.7.0/24");
}

#[test]
fn a_pod_cidr_outside_the_network_is_named() {
    let stage = stage();
    stage.api.add_node("one", &["10.99.1.0/24"]);
    let ours = stage.spawn();
    says(
        &ours,
        "podCIDR 10.99.1.0/24 is not inside Network 10.244.0.0/16",
    );
}

/// flanneld panics at it.
#[test]
fn a_node_without_any_annotation_gets_them() {
    let stage = stage();
    stage
        .api
        .add_node_with("one", &["10.244.1.0/24"], &Value::Null);
    let _ours = stage.start(Kind::Ours);
    assert_eq!(
        stage
            .api
            .annotation("one", "kube-subnet-manager")
            .as_deref(),
        Some("true")
    );
}

/// Of two families IPv4 is served, and one line says so.
#[test]
fn e6_of_dual_stack_ipv4_is_served() {
    let stage = stage();
    stage.api.add_node("one", &["fd00:1::/64", "10.244.3.0/24"]);
    let config = json!({"Network": "10.244.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00::/16", "Backend": {"Type": "vxlan"}});
    let file = stage.lab.folder().join("kube/net-conf.json");
    std::fs::write(file, config.to_string()).expect("write net-conf.json");
    let ours = stage.start(Kind::Ours);
    assert_eq!(ours.subnet().to_string(), "10.244.3.0/24");
    let log = ours.log();
    assert_eq!(
        log.matches("enables IPv6, which is not supported yet")
            .count(),
        1,
        "{log}"
    );
    says(&ours, "10.244.3.0/24 is served: IPv6 is not supported yet");
}

/// flanneld with `EnableIPv6` takes a Node without it for none of flannel's.
#[test]
fn what_flanneld_left_of_ipv6_outlives_the_node() {
    let stage = stage();
    stage.api.add_node("one", &["10.244.1.0/24"]);
    stage.api.annotate("one", "public-ipv6", "fd00::11");
    let _ours = stage.start(Kind::Ours);
    stage.api.delete_node("one");
    stage.api.add_node("one", &["10.244.1.0/24"]);
    eventually("it is published again", SOON, || {
        stage.api.annotation("one", "public-ipv6").as_deref() == Some("fd00::11")
    });
}

/// K1. Ours also while it runs.
#[rstest]
fn k1_an_admins_overwrite_is_the_public_ip(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = stage();
    stage.api.add_node("one", &["10.244.1.0/24"]);
    stage
        .api
        .annotate("one", "public-ip-overwrite", "172.18.0.2");
    let daemon = stage.start(kind);
    let public_ip = || stage.api.annotation("one", "public-ip").unwrap_or_default();
    eventually("the overwrite is published", SOON, || {
        public_ip() == "172.18.0.2"
    });
    if kind == Kind::Ours {
        stage
            .api
            .annotate("one", "public-ip-overwrite", "172.18.0.3");
        eventually("the other overwrite, too", SOON, || {
            public_ip() == "172.18.0.3"
        });
        // Nobody could send to it.
        stage
            .api
            .annotate("one", "public-ip-overwrite", "127.0.0.1");
        says(&daemon, "a loopback address; leaving it out");
        let address = daemon.node().address().to_string();
        let own = "the node's own address, since the overwrite is none";
        eventually(own, SOON * 2, || public_ip() == address);
    }
}

/// The address is one of the node's own, though not the first.
#[rstest]
fn node_public_ip_chooses_the_address(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = stage();
    stage.api.add_node("one", &["10.244.1.0/24"]);
    stage.api.annotate("one", "node-public-ip", "172.30.0.77");
    let node = stage.lab.node("one");
    node.exec("ip addr add 172.30.0.77/24 dev eth0");
    let mut flags = stage.flags();
    // It names the interface as well.
    flags.push("--iface=");
    let _daemon = start(kind, node, &stage.net, &flags);
    assert_eq!(
        stage.api.annotation("one", "public-ip").as_deref(),
        Some("172.30.0.77")
    );
}

#[test]
fn what_somebody_takes_away_or_changes_comes_back() {
    let stage = stage();
    stage.api.add_node("one", &["10.244.1.0/24"]);
    let ours = stage.start(Kind::Ours);
    let address = ours.node().address().to_string();
    let is = |name: &str, value: &str| {
        let what = format!("{name} is {value} again");
        eventually(what, SOON, || {
            stage.api.annotation("one", name).as_deref() == Some(value)
        });
    };
    stage
        .api
        .annotate("one", "kube-subnet-manager", Value::Null);
    is("kube-subnet-manager", "true");
    stage.api.annotate("one", "public-ip", "192.0.2.99");
    is("public-ip", &address);
    let all =
        json!({ format!("{PREFIX}/backend-data"): null, format!("{PREFIX}/backend-type"): null });
    stage
        .api
        .patch_node("one", &json!({"metadata": {"annotations": all}}));
    is("backend-type", "vxlan");
    // The condition, too: a Node that is made again has none.
    stage.api.delete_node("one");
    stage.api.add_node("one", &["10.244.9.0/24"]);
    eventually("the network is up again", SOON, || {
        stage
            .api
            .network_unavailable("one")
            .is_some_and(|[status, ..]| status == "False")
    });
    is("public-ip", &address);
    eventually("the other podCIDR is the subnet", SOON, || {
        ours.subnet().to_string() == "10.244.9.0/24"
    });
}

#[rstest]
fn the_condition_can_be_left_alone(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = stage();
    stage.api.add_node("one", &["10.244.1.0/24"]);
    let mut flags = stage.flags();
    flags.push("--set-node-network-unavailable=false");
    let _daemon = start(kind, stage.lab.node("one"), &stage.net, &flags);
    assert_eq!(stage.api.network_unavailable("one"), None);
}

/// Whoever comes after whom, the MAC stays; also after a reboot, which takes the devices.
#[rstest]
fn the_mac_stays(
    #[values(Kind::Ours, Kind::Flanneld)] first: Kind,
    #[values(Kind::Ours, Kind::Flanneld)] second: Kind,
) {
    let stage = stage();
    stage.api.add_node("one", &["10.244.1.0/24"]);
    let mut daemon = stage.start(first);
    let mac = stage.mac();
    daemon.terminate();
    let node = daemon.node_arc();
    drop(daemon);
    node.exec("ip link del flannel.1");
    let _daemon = start(second, node.clone(), &stage.net, &stage.flags());
    assert_eq!(stage.mac(), mac);
    let link = node.exec("ip -o link show flannel.1");
    assert!(link.contains(&mac), "{link}");
}

/// As in flannel's manifest: the Node is that of the pod.
#[test]
fn the_pod_says_which_node_it_is_on() {
    let stage = stage();
    stage.api.add_node("worker", &["10.244.5.0/24"]);
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-flannel"}});
    stage
        .api
        .create("/api/v1/namespaces", &namespace.to_string());
    let container = json!({"name": "c", "image": "i"});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p1"},
                     "spec": {"nodeName": "worker", "containers": [container]}});
    stage
        .api
        .create("/api/v1/namespaces/kube-flannel/pods", &pod.to_string());
    let wrapper = "env NODE_NAME= POD_NAME=p1 POD_NAMESPACE=kube-flannel";
    let ours = Agent::start_under(wrapper, stage.lab.node("one"), &stage.net, &stage.flags());
    assert_eq!(ours.subnet().to_string(), "10.244.5.0/24");
    assert!(stage.api.annotation("worker", "public-ip").is_some());
}

#[test]
fn another_prefix_makes_other_names() {
    let stage = stage();
    stage.api.add_node("one", &["10.244.1.0/24"]);
    let mut flags = stage.flags();
    flags.push("--kube-annotation-prefix=net.example/blue");
    let _ours = start(Kind::Ours, stage.lab.node("one"), &stage.net, &flags);
    let annotations = &stage.api.node("one")["metadata"]["annotations"];
    assert_eq!(
        annotations["net.example/blue-backend-type"], "vxlan",
        "{annotations}"
    );
}

/// As a pod: address and token of the ServiceAccount where the kubelet puts them, and the kubelet replaces the token.
#[test]
fn a_pod_finds_the_api_server_by_itself() {
    let stage = stage();
    stage.api.add_node("one", &["10.244.1.0/24"]);
    let folder = stage.lab.folder().join("kube");
    let script = folder.join("as-pod.sh");
    let account = "/run/secrets/kubernetes.io/serviceaccount";
    // A /run of its own, in a mount namespace of its own. The folder is bound, so that what is replaced there is seen.
    let text = format!(
        "set -e\nmount --make-rprivate /\nmount -t tmpfs tmpfs /run\nmkdir -p {account}\nmount --bind {0} {account}\n\
         exec env KUBERNETES_SERVICE_HOST=172.30.0.1 KUBERNETES_SERVICE_PORT=6443 \"$@\"\n",
        folder.display()
    );
    std::fs::write(&script, text).expect("write a script");
    std::fs::copy(folder.join("server.pem"), folder.join("ca.crt")).expect("copy the CA");
    let wrapper = format!("unshare --mount sh {}", script.display());
    let flags: Vec<&str> = stage.flags();
    let flags: Vec<&str> = flags
        .into_iter()
        .filter(|flag| !flag.starts_with("--kubeconfig-file"))
        .collect();
    let ours = Agent::start_under(&wrapper, stage.lab.node("one"), &stage.net, &flags);
    stage.api.set_token("the-next-token");
    stage.api.restart();
    stage.api.annotate("one", "public-ip", "192.0.2.99");
    let address = ours.node().address().to_string();
    eventually("the annotation is back", SOON * 4, || {
        stage.api.annotation("one", "public-ip").as_ref() == Some(&address)
    });
}

/// flanneld says its old address until it is restarted. The connection to the API server is from the old one, too.
#[test]
fn an_address_that_changes_is_published() {
    let stage = stage();
    stage.api.add_node("one", &["10.244.1.0/24"]);
    let ours = stage.start(Kind::Ours);
    let node = ours.node();
    node.ip_batch(&[
        format!("addr del {}/24 dev eth0", node.address()),
        "addr add 172.30.0.88/24 dev eth0".to_owned(),
    ]);
    eventually("the other address is published", SOON * 4, || {
        stage.api.annotation("one", "public-ip").as_deref() == Some("172.30.0.88")
    });
    stage.api.annotate("one", "backend-type", Value::Null);
    eventually("our Node is followed from there", SOON * 4, || {
        stage.api.annotation("one", "backend-type").as_deref() == Some("vxlan")
    });
}
