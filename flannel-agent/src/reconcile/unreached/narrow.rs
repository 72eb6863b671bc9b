//! Peers whose route has an MTU of its own that tunnel packets exceed, each once.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::NAMED;
use crate::reconcile::desired::Facts;

/// Of which it was said, with the route's MTU.
#[derive(Debug, Default)]
pub(super) struct Narrow(BTreeMap<Ipv4Addr, u32>);

impl Narrow {
    /// Logs what is new; `longest` is the longest tunnel packet.
    pub(super) fn tell(&mut self, facts: &Facts, longest: u32) {
        let now = narrow(facts, longest);
        let fresh: Vec<_> = now
            .iter()
            .filter(|(peer, mtu)| self.0.get(*peer) != Some(*mtu))
            .collect();
        for (peer, mtu) in fresh.iter().take(NAMED) {
            tracing::warn!(
                %peer,
                "the route to the peer {peer} has an MTU of {mtu} bytes, and tunnel packets have up to {longest}: they are sent as \
                 they are, and what the link does not carry is lost; set \"MTU\":{mtu} in the Backend of the network's config, \
                 or take the MTU off the route"
            );
        }
        if let Some(more) = fresh.len().checked_sub(NAMED).filter(|more| *more > 0) {
            tracing::warn!("the routes to {more} more peers have such an MTU");
        }
        self.0 = now;
    }
}

/// Without those that get no tunnel packets: the kernel keeps to the route there.
fn narrow(facts: &Facts, longest: u32) -> BTreeMap<Ipv4Addr, u32> {
    let is_direct = |peer: &Ipv4Addr| facts.on_link.get(peer).is_some_and(Option::is_some);
    let tunnelled = facts.ways.iter().filter(|(peer, _)| !is_direct(peer));
    tunnelled
        .filter_map(|(peer, way)| Some((*peer, way.mtu.filter(|mtu| *mtu > 0 && *mtu < longest)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::net::RouteTo;

    #[test]
    fn only_routes_that_carry_less_and_lead_into_the_tunnel() {
        let peer = |last| Ipv4Addr::new(192, 0, 2, last);
        let mut facts = Facts::default();
        for (last, mtu) in [
            (1, None),
            (2, Some(1300)),
            (3, Some(1500)),
            (4, Some(1300)),
            (5, Some(0)),
        ] {
            let way = RouteTo {
                mtu,
                ..RouteTo::default()
            };
            facts.ways.insert(peer(last), way);
        }
        facts.on_link.insert(peer(4), Some(2));
        facts.on_link.insert(peer(2), None);
        assert_eq!(narrow(&facts, 1500), BTreeMap::from([(peer(2), 1300)]));
    }
}
