//! The leases of other nodes, by what they are for this one.

use crate::desired::{Desired, Facts};
use crate::direct::Direct;

/// How many leases there are of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerStates {
    /// Reached by VXLAN.
    pub tunnel: usize,
    /// Reached by a route to the node itself: host-gw, `DirectRouting`.
    pub direct: usize,
    /// The kernel knows no way to the node: packets are sent as if it were a neighbour.
    pub no_route: usize,
    /// Damaged, of another backend, or naming this node: nothing is sent there.
    pub ignored: usize,
}

impl PeerStates {
    #[must_use]
    pub fn new(desired: &Desired, direct: &Direct, facts: &Facts) -> Self {
        let mut states = Self::default();
        for (subnet, peer) in &desired.peers.table {
            if direct.routes.contains_key(subnet) {
                states.direct += 1;
            } else if facts.next_hops.contains_key(&peer.public_ip) {
                states.tunnel += 1;
            } else {
                states.no_route += 1;
            }
        }
        states.ignored = desired.peers.ignored.len();
        states
    }

    pub(super) const fn by_name(&self) -> [(&'static str, usize); 4] {
        [
            ("tunnel", self.tunnel),
            ("direct", self.direct),
            ("no_route", self.no_route),
            ("ignored", self.ignored),
        ]
    }
}
