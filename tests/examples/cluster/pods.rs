//! Pods and Services of the scenarios.

use serde_json::{Value, json};

/// Where every pod serves.
pub(crate) const PORT: u16 = 8080;

pub(crate) const SERVER: &str = include_str!("server.pl");

/// A pod on `node` that serves, with what the machine has in `/usr`.
pub(crate) fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web", "pod": name}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            // Of a node that is away for a while.
            "tolerations": [{"operator": "Exists"}],
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "server",
                "image": "docker.io/local/pod:1",
                "imagePullPolicy": "Never",
                "command": ["perl", "-e", SERVER],
                "env": [{"name": "HOSTNAME", "value": name}],
                "ports": [{"containerPort": PORT}],
                "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                "volumeMounts": [{"name": "usr", "mountPath": "/usr", "readOnly": true}],
            }],
            "volumes": [{"name": "usr", "hostPath": {"path": "/usr"}}],
        },
    })
}

/// The same, reached by its node's `port` as well.
pub(crate) fn pod_with_host_port(name: &str, node: &str, port: u16) -> Value {
    let mut pod = pod(name, node);
    pod["spec"]["containers"][0]["ports"][0]["hostPort"] = port.into();
    pod
}

/// The same, which may send and be sent `rate`.
pub(crate) fn limited_pod(name: &str, node: &str, rate: &str) -> Value {
    let mut pod = pod(name, node);
    pod["metadata"]["annotations"] = json!({
        "kubernetes.io/ingress-bandwidth": rate,
        "kubernetes.io/egress-bandwidth": rate,
    });
    pod
}

/// The same, for two of a kind.
pub(crate) fn service(name: &str, selector: &Value, address: &str, more: &Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "selector": selector,
            "clusterIP": address,
            "ports": [{"port": PORT, "targetPort": PORT}],
        },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        service["spec"][key] = value.clone();
    }
    service
}

/// As one text for kubectl.
pub(crate) fn list(objects: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}
