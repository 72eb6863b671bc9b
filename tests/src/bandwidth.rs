//! CNI's bandwidth plugin, chained behind the bridge plugin.

use serde_json::{Value, json};

use crate::cni::Conflist;
use crate::host::Host;
use crate::member::Member;
use crate::netns::Netns;

/// A network like flannel's, up to the pod's port.
pub fn bridge(member: &(impl Member + ?Sized)) -> Value {
    let env = member.subnet_env();
    json!({
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "isDefaultGateway": true,
        "mtu": env.mtu,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": env.subnet().to_string()}]],
            "routes": [{"dst": env.network}],
        },
    })
}

/// 10 Mb/s both ways, for a pod that `bridge` has attached.
pub fn bandwidth(attached: &Value) -> Value {
    json!({
        "type": "bandwidth",
        "ingressRate": 10_000_000, "ingressBurst": 1_000_000,
        "egressRate": 10_000_000, "egressBurst": 1_000_000,
        "prevResult": attached,
    })
}

/// ADD of one plugin of a chain.
///
/// # Panics
/// If the plugin refuses.
#[track_caller]
pub fn add(member: &(impl Member + ?Sized), plugin: &Value, pod: &Netns) -> Value {
    let list = json!({"name": "shaped", "cniVersion": "0.3.1", "plugins": [plugin]});
    let node = member.node();
    let file = node.folder().join("shaped.conflist");
    std::fs::write(&file, list.to_string()).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    Conflist::read(node, &file).add(node, "shaped", pod, &[])
}

/// The node's end of the pod's link, of what [`bridge`] said.
///
/// # Panics
/// If it said nothing of one.
pub fn port(attached: &Value) -> String {
    let all = attached["interfaces"].as_array().into_iter().flatten();
    let mut names = all.filter_map(|interface| interface["name"].as_str());
    let name = names.find(|name| name.starts_with("veth"));
    name.unwrap_or_else(|| panic!("no port in {attached}"))
        .to_owned()
}

/// Packets that have passed the queueing discipline at the root of a device.
///
/// # Panics
/// If `tc` does not say.
pub fn passed(host: &(impl Host + ?Sized), device: &str) -> u64 {
    let shown = host.exec(&format!("tc -s -j qdisc show dev {device} root"));
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    shown[0]["packets"].as_u64().expect("a number")
}
