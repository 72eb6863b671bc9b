//! Nodes on a link without link-layer header: a tun device at either end, as of tailscale or WireGuard. etcd is asked by the
//! switch; everything else goes by the link.

use std::net::Ipv4Addr;

use crate::agent::Agent;
use crate::host::Host as _;
use crate::lab::Lab;
use crate::netns::Netns;
use crate::network::Network;
use crate::no_tcx;
use crate::node::Node;
use crate::pair::{Kind, Mix, Pair};
use crate::tuntap::{Layer, Link, unchanged};
use crate::with_daemon::{AnyDaemon, start};

/// The device.
pub const TUN: &str = "tun0";
/// Told to the daemon.
pub const IFACE: &str = "--iface=tun0";
/// tailscale's.
const MTU: u32 = 1280;

/// The address of the `n`-th end of a link.
pub const fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 64, 0, n)
}

/// Connects two namespaces by a link on which they are [`address`] 1 and 2.
pub fn connect(a: &Netns, b: &Netns) -> Link {
    let link = Link::between(Layer::Ip, (a, TUN), (b, TUN), unchanged);
    for (n, netns) in [(1, a), (2, b)] {
        netns.ip_batch(&[
            format!("addr add {}/24 dev {TUN}", address(n)),
            format!("link set {TUN} mtu {MTU} up"),
        ]);
    }
    link
}

/// Two nodes with a pod each that reach each other by such a link. `flags` are for ours alone.
pub fn pair(net: Network, mix: Mix, flags: &[&str]) -> (Pair<AnyDaemon>, Link) {
    let lab = Lab::new();
    let net = lab.network(net);
    let [one, two] = ["one", "two"].map(|name| lab.node(name));
    let link = connect(one.netns(), two.netns());
    let (a, b) = mix.kinds();
    let member = |kind, node| {
        let more = if kind == Kind::Ours { flags } else { &[] };
        start(kind, node, &net, &[&[IFACE], more].concat())
    };
    let (one, two) = (member(a, one), member(b, two));
    (Pair::of(lab, net, one, two), link)
}

/// The same of two agents; without `tcx` they attach filters.
pub fn agents(net: Network, flags: &[&str], tcx: bool) -> (Pair<Agent>, Link) {
    let lab = Lab::new();
    let net = lab.network(net);
    let [one, two] = ["one", "two"].map(|name| lab.node(name));
    let link = connect(one.netns(), two.netns());
    let [one, two] = [one, two].map(|node| {
        let wrapper = match tcx {
            true => String::new(),
            false => no_tcx::wrapper(&node),
        };
        Agent::start_under(&wrapper, node, &net, &[&[IFACE], flags].concat())
    });
    (Pair::of(lab, net, one, two), link)
}

/// A node whose default route leads to the router by such a link.
pub fn behind(lab: &Lab) -> (Node, Link) {
    let node = lab.node("one");
    let link = connect(node.netns(), lab.router());
    node.exec(&format!(
        "ip route replace default via {} dev {TUN}",
        address(2)
    ));
    (node, link)
}
