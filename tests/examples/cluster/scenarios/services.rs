//! Services of all types, and ports of the host.

use flannel_tests::prelude::*;
use serde_json::{Value, json};

use super::ask::{asked, from_outside};
use crate::cluster::Cluster;
use crate::kubectl::LONG;
use crate::pods::{PORT, list, pod_with_host_port, service};

const WEB: &str = "10.96.1.1";
pub(super) const ALONE: &str = "10.96.1.2";
pub(super) const FAR: &str = "10.96.1.3";
const BALANCED: &str = "10.96.1.4";
/// From outside the cluster, and of no node.
const GIVEN: &str = "203.0.113.80";
const NODE_PORT: u16 = 30080;
const LOCAL_PORT: u16 = 30081;
const HOST_PORT: u16 = 8888;

/// Those of the pods that all scenarios have.
pub(super) fn of_the_pods() -> [Value; 3] {
    let local = json!({
        "type": "NodePort",
        "externalTrafficPolicy": "Local",
        "ports": [{"port": PORT, "targetPort": PORT, "nodePort": LOCAL_PORT}],
    });
    let anywhere = json!({
        "type": "NodePort",
        "ports": [{"port": PORT, "targetPort": PORT, "nodePort": NODE_PORT}],
    });
    [
        service("web", &json!({"app": "web"}), WEB, &json!({})),
        service("alone", &json!({"pod": "first"}), ALONE, &local),
        service("far", &json!({"pod": "second"}), FAR, &anywhere),
    ]
}

pub(super) fn cluster_ip(cluster: &mut Cluster) {
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

pub(super) fn node_port(cluster: &mut Cluster) {
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
pub(super) fn local_policy(cluster: &mut Cluster) {
    let outside = &cluster.outside;
    let [one, two] = &cluster.machines;
    let said = from_outside(outside, &one.address().to_string(), LOCAL_PORT);
    assert_eq!(said, Ok(format!("first {}", outside.address())));
    let said = from_outside(outside, &two.address().to_string(), LOCAL_PORT);
    assert!(said.is_err(), "{said:?}");
}

/// What a cloud does is done by hand: it gives an address, and leads it to a node.
pub(super) fn load_balancer(cluster: &mut Cluster) {
    let kubectl = &cluster.kubectl;
    let outside = &cluster.outside;
    let [one, two] = &cluster.machines;
    let kind = json!({"type": "LoadBalancer"});
    let selector = json!({"pod": "second"});
    kubectl.apply(&list(&[service("balanced", &selector, BALANCED, &kind)]));
    let given = json!({"status": {"loadBalancer": {"ingress": [{"ip": GIVEN}]}}});
    let patch = format!("--patch={given}");
    let name = "service/balanced";
    kubectl.run(&[
        "patch",
        name,
        "--subresource=status",
        "--type=merge",
        &patch,
    ]);
    // By the node without the pod: across the tunnel, there and back.
    outside.leads_to(GIVEN, one.address());
    eventually("the address is served", LONG, || {
        from_outside(outside, GIVEN, PORT).is_ok_and(|said| said.starts_with("second "))
    });
    assert!(asked(kubectl, "first", GIVEN, PORT).starts_with("second "));
    // Only where the pod is, and it sees who asks.
    let local = r#"--patch={"spec":{"externalTrafficPolicy":"Local"}}"#;
    kubectl.run(&["patch", name, local]);
    outside.leads_to(GIVEN, two.address());
    let seen = format!("second {}", outside.address());
    eventually("the client is seen", LONG, || {
        from_outside(outside, GIVEN, PORT).as_ref() == Ok(&seen)
    });
    kubectl.run(&["delete", name]);
}

pub(super) fn host_port(cluster: &mut Cluster) {
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
