//! What the tests of uplinks and routes have in common: members of any kind and backend, and all that a pair carries.

use std::net::SocketAddrV4;

use crate::agent::Agent;
use crate::host::Host as _;
use crate::member::{AnyMember, Member};
use crate::network::Network;
use crate::node::Node;
use crate::pair::{self, Kind, Pair, Way};
use crate::{tcp, udp};

/// flannel's defaults.
pub fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

/// The same without a tunnel.
pub fn host_gw() -> Network {
    Network::host_gw("/coreos.com/network", "10.244.0.0/16")
}

/// With a tunnel that has no port.
pub fn ipip() -> Network {
    Network::ipip("/coreos.com/network", "10.244.0.0/16")
}

/// Makes `node` a member of `net`; `flags` are for an agent of ours.
pub fn join(kind: Kind, node: Node, net: &Network, flags: &[&str]) -> AnyMember {
    match kind {
        Kind::Ours => Box::new(Agent::start_with(node, net, flags)),
        Kind::Flanneld | Kind::Kernel => pair::join(kind, node, net),
    }
}

/// Pings, datagrams of one packet and of several, a stream: from pod to pod, both ways.
#[track_caller]
pub fn carries_everything<A: Member, B: Member>(pair: &Pair<A, B>) {
    for Way { client, server, .. } in pair.both_ways() {
        client.ping(server.address()).succeeds();
        udp::exchange(client, server, server.address(), 1000);
        udp::exchange(client, server, server.address(), 8192);
        let listener = tcp::Server::on(server);
        let to = SocketAddrV4::new(server.address(), listener.port());
        listener.exchange(client, to, 1 << 20);
    }
}
