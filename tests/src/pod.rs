//! A pod: a namespace behind the node's bridge, attached by the real CNI plugins.

use std::net::Ipv4Addr;

use serde_json::Value;

use crate::cni::Cni;
use crate::host::Host;
use crate::member::Member;
use crate::netns::Netns;
use crate::wait::{SOON, eventually};

/// flannel's bridge.
pub const BRIDGE: &str = "cni0";

/// A namespace with `eth0` in its node's subnet. Goes with its namespace; [`Pod::delete`] is the orderly way.
#[derive(Debug)]
pub struct Pod {
    netns: Netns,
    name: String,
    address: Ipv4Addr,
    port: String,
    cni: Cni,
}

impl Pod {
    /// A pod on `member`, behind `cni0`.
    pub fn on(member: &(impl Member + ?Sized), name: &str) -> Self {
        Self::behind(member, name, BRIDGE)
    }

    /// A pod on `member`, behind a bridge of another name (a second network needs its own).
    ///
    /// `ipMasq` of the bridge plugin is off: it would hide the pods' addresses from each other on nodes
    /// where nobody writes `FLANNEL_IPMASQ=true`.
    pub fn behind(member: &(impl Member + ?Sized), name: &str, bridge: &str) -> Self {
        let node = member.node();
        let cni = Cni::new(node, &member.subnet_env(), bridge, false);
        let netns = node.pod_namespace(name);
        let result = cni.add(node, name, &netns);
        let address = result["ips"][0]["address"]
            .as_str()
            .and_then(|a| a.split('/').next())
            .and_then(|a| a.parse().ok())
            .unwrap_or_else(|| panic!("no address in the CNI result {result}"));
        Self {
            netns,
            name: name.to_owned(),
            address,
            port: port(&result, bridge),
            cni,
        }
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The node's end of the pod's link.
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Waits until `other` answers a ping: the point from which a test may count packets.
    #[track_caller]
    pub fn reaches(&self, other: &Self) {
        let what = format!("{} answers {}", other.name, self.name);
        eventually(what, SOON, || self.ping(other.address).count(1).lossless());
    }

    /// CNI DEL, then the end of the namespace.
    pub fn delete(self, member: &(impl Member + ?Sized)) {
        self.cni.del(member.node(), &self.name, &self.netns);
    }
}

impl Host for Pod {
    fn netns(&self) -> &Netns {
        &self.netns
    }
}

/// The result lists the bridge, the port and the pod's `eth0`; only the last has a sandbox.
fn port(result: &Value, bridge: &str) -> String {
    result["interfaces"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|i| i["name"].as_str())
        .find(|name| *name != bridge && *name != "eth0")
        .unwrap_or_else(|| panic!("no port in the CNI result {result}"))
        .to_owned()
}
