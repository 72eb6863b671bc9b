//! The kernel routes to peers: one per lease, so that an address of the Network that nobody leases belongs to whoever
//! routes it today. With the backend udp these are flannel's, whose proxy answers for them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Serialize;

use super::{Inputs, Peers};
use crate::flannel::backend::Wire;
use crate::node::direct::Hop;

/// The next hop of every route into the tunnel: nobody's address (RFC 3927, 2.1 keeps 169.254.0.0/24 back), and on a device
/// without ARP nobody is asked for it.
///
/// Without a next hop the kernel would keep a neighbour per pod that is talked to, which push each other – and those of the
/// underlay – out of a table of a thousand (`net.ipv4.neigh.default.gc_thresh3`). With this one there is one neighbour, and
/// all routes share one `fib_info`.
pub const TUNNEL: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);

/// The way to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Way {
    /// By `flannel.<VNI>`, or whatever the tunnel's device is.
    Tunnel,
    /// The same with an MTU of its own, bytes.
    Narrow(u32),
    /// By the peer's own address.
    Direct(Hop),
}

impl Way {
    /// By `flannel.<VNI>`, with whatever MTU.
    #[must_use]
    pub fn is_tunnel(self) -> bool {
        !matches!(self, Self::Direct(_))
    }

    /// Of the route itself, bytes.
    #[must_use]
    pub fn mtu(self) -> Option<u32> {
        match self {
            Self::Narrow(mtu) => Some(mtu),
            _ => None,
        }
    }
}

/// By subnet.
pub type Routes = BTreeMap<Ipv4Net, Way>;

/// Every peer that can be reached has a route. With WireGuard there is one for all, as flanneld has it: what goes to a node that is gone
/// must not leave in clear by another way.
pub(super) fn routes(inputs: &Inputs<'_>, peers: &Peers) -> Routes {
    if inputs.config.backend.wireguard().is_some() {
        return [(inputs.config.network, Way::Tunnel)].into();
    }
    let tunnel = peers.table.iter().map(|(subnet, peer)| {
        let way = peer.mtu.map_or(Way::Tunnel, Way::Narrow);
        (*subnet, way)
    });
    let direct = inputs.direct.iter();
    let direct = direct.filter(|(subnet, _)| !peers.ignored.contains_key(subnet));
    let direct = direct.map(|(subnet, hop)| (*subnet, Way::Direct(*hop)));
    let backend = &inputs.config.backend;
    let is_udp = backend.tunnel().is_some_and(|t| t.wire == Wire::Udp);
    let rest = is_udp.then_some((inputs.config.network, Way::Tunnel));
    tunnel.chain(direct).chain(rest).collect()
}
