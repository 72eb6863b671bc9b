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
    /// The kernel knows no way to the node: packets are dropped.
    pub no_route: usize,
    /// It knows one, which leads nowhere: the link is dead, or the next hop does not answer.
    pub no_answer: usize,
    /// Damaged, of another backend, or naming this node: nothing is sent there.
    pub ignored: usize,
}

impl PeerStates {
    #[must_use]
    pub fn new(desired: &Desired, direct: &Direct, facts: &Facts) -> Self {
        let mut states = Self::default();
        for (subnet, peer) in &desired.peers.table {
            let direct = direct.routes.contains_key(subnet);
            let known = direct || facts.ways.contains_key(&peer.public_ip);
            let state = match (known, facts.unreached.contains_key(&peer.public_ip)) {
                (false, _) => &mut states.no_route,
                (true, true) => &mut states.no_answer,
                (true, false) if direct => &mut states.direct,
                (true, false) => &mut states.tunnel,
            };
            *state += 1;
        }
        states.ignored = desired.peers.ignored.len();
        states
    }

    pub(super) const fn by_name(&self) -> [(&'static str, usize); 5] {
        [
            ("tunnel", self.tunnel),
            ("direct", self.direct),
            ("no_route", self.no_route),
            ("no_answer", self.no_answer),
            ("ignored", self.ignored),
        ]
    }
}
