//! The devices that carry the tunnel's packets, where the uplink is not the only one: the address may be on the loopback
//! device and packets leave by several others (BGP to the host, ECMP), or another card leads to some of the peers.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Ports;
use crate::node::mark;
use crate::node::net::{Kind, Link, Route, RouteTo};
use crate::node::uplink::Uplink;

/// What is known of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Underlay {
    /// By name, with their index: those besides the uplink.
    pub others: BTreeMap<String, u32>,
    /// Longest packet that all of them carry, bytes; `None` while nothing is known.
    pub mtu: Option<u32>,
}

impl Underlay {
    /// `ways` lead to peers, `routes` out of the node: what may carry packets before there is a peer.
    pub(super) fn find<'a>(
        links: &[Link],
        uplink: &Uplink,
        ways: impl Iterator<Item = &'a RouteTo> + Clone,
        routes: &[Route],
        pods: &Ports,
    ) -> Self {
        let legs = ways.clone().flat_map(RouteTo::devices);
        let out = default_paths(routes);
        let carries = |index: u32| {
            let link = links.iter().find(|link| link.index == index);
            link.filter(|link| is_carrier(link) && !pods.contains_key(&link.name))
        };
        let devices = legs.chain(out).filter_map(carries);
        let others = devices.filter(|link| link.index != uplink.index);
        Self {
            others: others.map(|link| (link.name.clone(), link.index)).collect(),
            mtu: mtu(uplink, ways, |index| carries(index).map(|link| link.mtu)),
        }
    }

    /// Longest packet on the wire.
    #[must_use]
    pub fn mtu(&self, uplink: &Uplink) -> u32 {
        self.mtu.unwrap_or(uplink.mtu)
    }
}

/// The uplink's own, and that of the devices that share its packets; where it gets none, that of those that do.
fn mtu<'a>(
    uplink: &Uplink,
    ways: impl Iterator<Item = &'a RouteTo> + Clone,
    of: impl Fn(u32) -> Option<u32>,
) -> Option<u32> {
    let by_uplink = |way: &&RouteTo| way.devices().any(|index| index == uplink.index);
    let uses_uplink = uplink.is_carrier && (ways.clone().any(|way| by_uplink(&way)));
    let shared = ways.filter(|way| !uses_uplink || by_uplink(way));
    let others = shared.flat_map(RouteTo::devices);
    let own = uses_uplink.then_some(uplink.mtu);
    others.filter_map(of).chain(own).min()
}

/// Whether packets can come and go by a device. A route never leads to a port of a bridge, and our own devices are what
/// is carried.
fn is_carrier(link: &Link) -> bool {
    link.up
        && link.is_served()
        && !link.loopback
        && link.kind != Kind::Other("dummy".to_owned())
        && link.controller.is_none()
        && mark::network_of(link).is_none()
}

/// By which devices the best default route leads.
fn default_paths(routes: &[Route]) -> impl Iterator<Item = u32> {
    let default = routes
        .iter()
        .find(|route| route.destination.prefix_len() == 0);
    default
        .into_iter()
        .flat_map(|route| route.paths.iter().map(|path| path.index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::net::fixtures::link;
    use crate::node::net::{Branch, Path, Towards};

    fn uplink(index: u32, is_carrier: bool) -> Uplink {
        Uplink {
            name: format!("dev{index}"),
            index,
            mtu: 1500,
            mac: [0; 6],
            address: [192, 0, 2, 1].into(),
            public_ip: [192, 0, 2, 1].into(),
            is_carrier,
            why: "test".to_owned(),
        }
    }

    fn links() -> Vec<Link> {
        let lo = Link {
            loopback: true,
            ethernet: false,
            ..link(1, "lo")
        };
        let narrow = Link {
            mtu: 1400,
            ..link(3, "eth1")
        };
        vec![lo, link(2, "eth0"), narrow, link(9, "vethpod")]
    }

    fn by(indexes: &[u32]) -> RouteTo {
        let leg = |index: &u32| Branch {
            index: *index,
            towards: Towards::Neighbour,
            dead: false,
        };
        RouteTo {
            legs: indexes.iter().map(leg).collect(),
            ..RouteTo::default()
        }
    }

    fn find(uplink: &Uplink, ways: &[RouteTo], out: &[u32]) -> (Vec<String>, Option<u32>) {
        let path = |index: &u32| Path {
            index: *index,
            gateway: None,
            dead: false,
        };
        let route = Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            paths: out.iter().map(path).collect(),
            source: None,
            metric: 0,
            protocol: 4,
        };
        let pods = Ports::from([("vethpod".to_owned(), 9)]);
        let found = Underlay::find(&links(), uplink, ways.iter(), &[route], &pods);
        (found.others.into_keys().collect(), found.mtu)
    }

    #[test]
    fn the_uplink_alone() {
        let eth0 = uplink(2, true);
        assert_eq!(find(&eth0, &[], &[]), (vec![], None));
        assert_eq!(find(&eth0, &[by(&[2])], &[2]), (vec![], Some(1500)));
    }

    #[test]
    fn other_cards_that_lead_to_peers_and_only_shared_ways_narrow() {
        let eth0 = uplink(2, true);
        let eth1 = || vec!["eth1".to_owned()];
        let apart = [by(&[2]), by(&[3])];
        assert_eq!(find(&eth0, &apart, &[]), (eth1(), Some(1500)));
        assert_eq!(find(&eth0, &[by(&[2, 3])], &[]), (eth1(), Some(1400)));
        assert_eq!(find(&eth0, &[by(&[3])], &[]), (eth1(), Some(1400)));
    }

    #[test]
    fn an_address_without_a_device_of_its_own() {
        let lo = uplink(1, false);
        let both = || vec!["eth0".to_owned(), "eth1".to_owned()];
        assert_eq!(find(&lo, &[], &[2, 3]), (both(), None));
        assert_eq!(find(&lo, &[by(&[2, 3])], &[]), (both(), Some(1400)));
        let (others, _) = find(&lo, &[by(&[1]), by(&[9])], &[]);
        assert!(others.is_empty(), "{others:?}");
    }
}
