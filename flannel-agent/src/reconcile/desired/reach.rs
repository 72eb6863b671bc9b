//! Peers that packets cannot reach as things are, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::{Facts, Sought};
use crate::flannel::backend::Routed;
use crate::node::net::{Branch, Link, RouteTo, Towards};

impl Facts {
    /// Looks at the ways that were found: those that lead nowhere are named, beside the peers without any.
    pub(super) fn doubt(
        &mut self,
        sought: &Sought<'_>,
        links: &[Link],
        silent: &BTreeSet<(u32, Ipv4Addr)>,
    ) {
        self.unreached
            .retain(|peer, _| !self.ways.contains_key(peer));
        let mut ways = match sought.config.backend.routed() {
            Routed::All => neighbours(sought),
            Routed::Neighbours | Routed::Nobody => self.ways.clone(),
        };
        // Pods' packets go to these neighbours themselves, whatever way the tunnel would take.
        let direct = self.on_link.iter();
        ways.extend(direct.filter_map(|(peer, index)| Some((*peer, neighbour((*index)?)))));
        for (peer, way) in ways {
            if let Some(why) = doubt(peer, &way, links, silent) {
                self.unreached.insert(peer, why);
            }
        }
    }
}

/// host-gw has no other way.
fn neighbours(sought: &Sought<'_>) -> BTreeMap<Ipv4Addr, RouteTo> {
    let peers = sought.leases.values().map(|attrs| attrs.public_ip);
    let others = peers.filter(|peer| *peer != sought.uplink.address);
    others
        .map(|peer| (peer, neighbour(sought.uplink.index)))
        .collect()
}

fn neighbour(index: u32) -> RouteTo {
    RouteTo {
        legs: vec![Branch {
            index,
            towards: Towards::Neighbour,
            dead: false,
        }],
        ..RouteTo::default()
    }
}

/// Why packets do not arrive this way; `silent` are the neighbours that do not answer.
fn doubt(
    peer: Ipv4Addr,
    way: &RouteTo,
    links: &[Link],
    silent: &BTreeSet<(u32, Ipv4Addr)>,
) -> Option<String> {
    if way.local || way.legs.is_empty() {
        return None;
    }
    let name = |index: u32| {
        let link = links.iter().find(|link| link.index == index);
        link.map_or_else(|| format!("interface #{index}"), |link| link.name.clone())
    };
    let dead = |leg: &Branch| {
        let link = links.iter().find(|link| link.index == leg.index);
        leg.dead || link.is_none_or(|link| !link.running)
    };
    if way.legs.iter().all(dead) {
        let devices: Vec<String> = way.devices().map(name).collect();
        return Some(format!(
            "its route leads out by {}, which is down or has no carrier",
            devices.join(" and ")
        ));
    }
    let mut asked = way.neighbours(peer);
    let answers = |hop: &(u32, Ipv4Addr)| !silent.contains(hop);
    let (index, via) = way.neighbours(peer).next()?;
    if way.neighbours(peer).count() < way.legs.len() || asked.any(|hop| answers(&hop)) {
        return None;
    }
    let device = name(index);
    Some(match (via == peer, way.by_default) {
        (false, _) => format!("the gateway {via} does not answer on {device}"),
        (true, false) => format!(
            "the routing table takes it for a neighbour on {device}, where it does not answer: it is down, or not \
             on that link"
        ),
        (true, true) => format!(
            "the default route takes it for a neighbour on {device}, where it does not answer: the route lacks a \
             gateway"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::net::fixtures::link;

    const PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn why(way: &RouteTo, links: &[Link], silent: &[(u32, Ipv4Addr)]) -> Option<String> {
        doubt(PEER, way, links, &silent.iter().copied().collect())
    }

    fn by(legs: &[(u32, Towards)]) -> RouteTo {
        let leg = |(index, towards): &(u32, Towards)| Branch {
            index: *index,
            towards: *towards,
            dead: false,
        };
        RouteTo {
            legs: legs.iter().map(leg).collect(),
            ..RouteTo::default()
        }
    }

    #[test]
    fn who_does_not_answer_is_named() {
        let links = [link(2, "eth0")];
        let near = by(&[(2, Towards::Neighbour)]);
        assert_eq!(why(&near, &links, &[(2, GATEWAY)]), None);
        let text = why(&near, &links, &[(2, PEER)]).unwrap();
        assert!(text.contains("a neighbour on eth0"), "{text}");
        let default = RouteTo {
            by_default: true,
            ..near
        };
        let text = why(&default, &links, &[(2, PEER)]).unwrap();
        assert!(text.contains("lacks a gateway"), "{text}");
        let far = by(&[(2, Towards::Gateway(GATEWAY))]);
        let text = why(&far, &links, &[(2, GATEWAY)]).unwrap();
        assert!(text.contains("the gateway 192.0.2.1"), "{text}");
    }

    #[test]
    fn one_leg_that_works_is_enough() {
        let down = Link {
            running: false,
            ..link(3, "eth1")
        };
        let links = [link(2, "eth0"), down];
        let both = by(&[(2, Towards::Gateway(GATEWAY)), (3, Towards::Neighbour)]);
        assert_eq!(why(&both, &links, &[(3, PEER)]), None);
        let dead = by(&[(3, Towards::Neighbour)]);
        let text = why(&dead, &links, &[]).unwrap();
        assert!(text.contains("by eth1, which is down"), "{text}");
    }
}
