//! What is done to a port of the pod bridge, and what else may be one.

use crate::bandwidth::passed;
use crate::host::Host as _;
use crate::member::Member as _;
use crate::netns::Netns;
use crate::pod::{BRIDGE, Pod};
use crate::tuntap::{Layer, Link};
use crate::wait::{SOON, eventually};
use crate::with_daemon::AnyDaemon;
use std::net::Ipv4Addr;

/// Somebody with an address of the node's subnet who does not hang on the bridge by a veth of its own.
#[derive(Debug)]
pub struct Guest {
    netns: Netns,
    address: Ipv4Addr,
    /// The bridge's port that leads there.
    pub port: &'static str,
    _tap: Option<Link>,
}

impl Guest {
    /// Behind a second bridge, which a veth with both ends on the node connects to the first.
    pub fn behind_another_bridge(daemon: &AnyDaemon) -> Self {
        let node = daemon.node();
        let netns = node.pod_namespace("guest");
        node.ip_batch(&[
            "link add br9 up type bridge".to_owned(),
            "link add link9 type veth peer name far9".to_owned(),
            format!("link set link9 master {BRIDGE} up"),
            "link set far9 master br9 up".to_owned(),
            format!(
                "link add guest9 type veth peer name eth0 netns {}",
                netns.name()
            ),
            "link set guest9 master br9 up".to_owned(),
        ]);
        Self::settled(daemon, netns, "link9", None)
    }

    /// A virtual machine: a tap device is the port.
    pub fn behind_a_tap(daemon: &AnyDaemon) -> Self {
        let node = daemon.node();
        let netns = node.pod_namespace("guest");
        let ends = ((node.netns(), "tap9"), (&netns, "eth0"));
        let tap = Link::between(Layer::Ethernet, ends.0, ends.1, |_| {});
        node.exec(&format!("ip link set tap9 master {BRIDGE} up"));
        Self::settled(daemon, netns, "tap9", Some(tap))
    }

    fn settled(daemon: &AnyDaemon, netns: Netns, port: &'static str, tap: Option<Link>) -> Self {
        let subnet = daemon.subnet();
        let (address, gateway) = (subnet.address(200), subnet.address(1));
        netns.ip_batch(&[
            format!("addr add {address}/{} dev eth0", subnet.len),
            "link set eth0 up".to_owned(),
            "link set lo up".to_owned(),
            format!("route add default via {gateway}"),
        ]);
        Self {
            netns,
            address,
            port,
            _tap: tap,
        }
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }
}

impl crate::host::Host for Guest {
    fn netns(&self) -> &Netns {
        &self.netns
    }
}

/// Waits until our agent has said that no flow is fast at `port`, and not taken it back: the bridge forwards nothing by a port
/// that was just made.
#[track_caller]
pub fn unfit_if_ours(daemon: &AnyDaemon, port: &str) {
    if let Some(agent) = daemon.agent() {
        eventually(format!("{port} is found unfit"), SOON, || {
            let log = agent.log();
            let last = |what: String| log.rfind(&what);
            let unfit = last(format!("no flow is fast at {port}: "));
            unfit > last(format!("nothing is against fast flows at {port} any more"))
        });
    }
}

/// Packets that have passed the queueing discipline at the root of a pod's port.
pub fn shaped(daemon: &AnyDaemon, pod: &Pod) -> u64 {
    passed(daemon, pod.port())
}
