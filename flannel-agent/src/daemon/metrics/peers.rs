//! The leases of other nodes, by what they are for this one.

use crate::base::counters::PeerStates;
use crate::node::direct::Direct;
use crate::reconcile::desired::{Desired, Facts};

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
        for peer in desired.peers.sealed.values() {
            let address = peer.endpoint.ip();
            let known = facts.ways.contains_key(address);
            let state = match (known, facts.unreached.contains_key(address)) {
                (false, _) => &mut states.no_route,
                (true, true) => &mut states.no_answer,
                (true, false) => &mut states.tunnel,
            };
            *state += peer.allowed.len();
        }
        states.ignored = desired.peers.ignored.len();
        states
    }
}
