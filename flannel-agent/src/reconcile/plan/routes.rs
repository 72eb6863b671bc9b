//! From the routes that are to those that should be.
//!
//! Whatever else leads to a peer's subnet stays. A route to exactly that subnet is behind ours while the lease is there, as
//! flanneld's (`RouteReplace`) would be in its place; one to a part of it comes first, as beside flanneld.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Serialize;

use crate::node::direct::Hop;
use crate::node::net::{PROTOCOL, Path, Refusals, Route};
use crate::reconcile::desired::{Desired, Routes, TUNNEL, Way};

/// `RTPROT_BOOT` (rtnetlink.h): flanneld's routes carry it, and those of `ip route add`.
const BOOT: u8 = 3;

/// So many changes are named one by one; more are counted.
const NAMED: usize = 4;

/// A route to make, or to make anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Set {
    pub way: Way,
    /// Preferred source address; `None`: whichever the kernel finds.
    pub source: Option<Ipv4Addr>,
    pub how: How,
}

/// What is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum How {
    /// Nothing.
    Add,
    /// A route of ours or of flanneld's: it gives way in the same step, so there is never none, and never two.
    Replace,
    /// Somebody else's, of this protocol: it stays, behind ours.
    InFront { protocol: u8 },
}

/// Steps that may be repeated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RouteChanges {
    /// Routes of ours that go, before any is set.
    pub remove: BTreeSet<Ipv4Net>,
    pub set: BTreeMap<Ipv4Net, Set>,
}

/// What the plan wants: all routes at once, and how ours are known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) desired: &'a Desired,
    /// Index of `flannel.<VNI>`, 0 if it is still to be made.
    pub(super) tunnel: u32,
    /// Of routes into the tunnel.
    pub(super) source: Option<Ipv4Addr>,
}

/// The changes from the main table's `held` to what is wanted, and what goes when those are made: routes of ours that are
/// wider than a wanted one served until then.
pub(super) fn between(wanted: &Wanted<'_>, held: &[Route]) -> (RouteChanges, RouteChanges) {
    let routes = &wanted.desired.routes;
    let (mut first, mut last) = (RouteChanges::default(), RouteChanges::default());
    for route in held {
        let to = route.destination;
        if routes.contains_key(&to) || !wanted.owns(route) {
            continue;
        }
        let serves = routes
            .keys()
            .any(|subnet| to.contains(subnet) || wanted.is_one_for_all() && subnet.contains(&to));
        let part = if serves { &mut last } else { &mut first };
        part.remove.insert(to);
    }
    // The kernel replaces within one metric; ours is 0.
    let held = held.iter().filter(|route| route.metric == 0);
    let mut by_destination: BTreeMap<Ipv4Net, Vec<&Route>> = BTreeMap::new();
    for route in held {
        by_destination
            .entry(route.destination)
            .or_default()
            .push(route);
    }
    for (subnet, way) in routes {
        let held = by_destination.get(subnet).map_or(&[][..], Vec::as_slice);
        let Some(how) = wanted.how(*subnet, *way, held) else {
            continue;
        };
        let (front, behind) = held.split_at(held.len().min(1));
        if front.iter().all(|r| r.protocol != PROTOCOL)
            && behind.iter().any(|r| r.protocol == PROTOCOL)
        {
            // Somebody came in front of ours. As long as that is there, the kernel says EEXIST (`fib_table_insert`).
            first.remove.insert(*subnet);
        }
        let source = wanted.source.filter(|_| way.is_tunnel());
        let way = *way;
        first.set.insert(*subnet, Set { way, source, how });
    }
    (first, last)
}

impl Wanted<'_> {
    /// A route of ours that leads to a peer of this network, or did under an earlier configuration. Those into another
    /// tunnel are another network's, or go with their device.
    fn owns(&self, route: &Route) -> bool {
        let inside = self.desired.node.overlay.contains(&route.destination);
        let ours = |(index, gateway): (u32, Option<Ipv4Addr>)| {
            let direct = gateway.is_some_and(|gateway| gateway != TUNNEL);
            (self.tunnel != 0 && index == self.tunnel) || (inside && direct)
        };
        let mut paths = route.paths.iter().map(|path| (path.index, path.gateway));
        route.protocol == PROTOCOL && paths.any(ours)
    }

    /// WireGuard's: single routes serve until it is there.
    fn is_one_for_all(&self) -> bool {
        self.desired.node.wireguard.is_some()
    }

    /// `None`: it is so already. `held`: the routes to the subnet, the one that counts first.
    fn how(&self, subnet: Ipv4Net, way: Way, held: &[&Route]) -> Option<How> {
        let Some(route) = held.first() else {
            return Some(How::Add);
        };
        match route.protocol {
            PROTOCOL if self.is(way, route) => None,
            PROTOCOL => Some(How::Replace),
            BOOT if self.is_flannelds(subnet, route) => Some(How::Replace),
            protocol => Some(How::InFront { protocol }),
        }
    }

    fn is(&self, way: Way, route: &Route) -> bool {
        let Some((index, gateway)) = single(route) else {
            return false;
        };
        match way {
            Way::Tunnel | Way::Narrow(_) => {
                (index, gateway) == (self.tunnel, TUNNEL)
                    && route.source == self.source
                    && route.mtu == way.mtu()
            }
            Way::Direct(Hop { via, index: by }) => (index, gateway) == (by, via),
        }
    }

    /// As flanneld makes them: by the subnet's first address into its tunnel, by the peer's own address, or to WireGuard's device
    /// alone.
    fn is_flannelds(&self, subnet: Ipv4Net, route: &Route) -> bool {
        if let [path] = route.paths.as_slice()
            && self.is_one_for_all()
        {
            return path.gateway.is_none() && path.index == self.tunnel;
        }
        let peer = self.desired.peers.table.get(&subnet);
        single(route).is_some_and(|(_, gateway)| {
            gateway == subnet.network() || peer.is_some_and(|peer| peer.public_ip == gateway)
        })
    }
}

/// Device and next hop of a route with one path.
fn single(route: &Route) -> Option<(u32, Ipv4Addr)> {
    match route.paths.as_slice() {
        [
            Path {
                index,
                gateway: Some(gateway),
                ..
            },
        ] => Some((*index, *gateway)),
        _ => None,
    }
}

impl RouteChanges {
    /// What has to change after a change of leases alone, where nobody else touched a route.
    #[must_use]
    pub fn of_leases(before: &Routes, now: &Routes, source: Ipv4Addr) -> Self {
        // Of thousands, all stay when one lease has another MAC.
        if before == now {
            return Self::default();
        }
        let gone = before.keys().filter(|to| !now.contains_key(to));
        let set = now
            .iter()
            .filter(|(to, way)| before.get(to) != Some(way))
            .map(|(to, way)| {
                let how = match before.contains_key(to) {
                    true => How::Replace,
                    false => How::Add,
                };
                let source = Some(source).filter(|_| way.is_tunnel());
                let way = *way;
                (*to, Set { way, source, how })
            });
        Self {
            remove: gone.copied().collect(),
            set: set.collect(),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty()
    }

    /// What of it was made, and what the kernel refused.
    pub(crate) fn split(&self, refusals: &Refusals) -> (Self, Self) {
        let removals = self.remove.iter().copied();
        let (refused, removed) = removals.partition(|to| refusals.removed.contains_key(to));
        let steps = self.set.iter().map(|(to, set)| (*to, *set));
        let (unset, set) = steps.partition(|(to, _)| refusals.set.contains_key(to));
        let made = Self {
            remove: removed,
            set,
        };
        let rest = Self {
            remove: refused,
            set: unset,
        };
        (made, rest)
    }

    /// Whether one step is in both.
    pub(super) fn share(&self, other: &Self) -> bool {
        let mut set = self.set.iter();
        !self.remove.is_disjoint(&other.remove)
            || set.any(|(to, set)| other.set.get(to).is_some_and(|s| s.way == set.way))
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.way {
            Way::Tunnel => f.write_str("by the tunnel")?,
            Way::Narrow(mtu) => write!(f, "by the tunnel with an MTU of {mtu}")?,
            Way::Direct(hop) => write!(f, "via {}", hop.via)?,
        }
        match self.how {
            How::Add | How::Replace => Ok(()),
            How::InFront { protocol } => {
                write!(
                    f,
                    ", in front of somebody else's (protocol {protocol}), which stays"
                )
            }
        }
    }
}

impl fmt::Display for RouteChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (set, removed) = (self.set.len(), self.remove.len());
        let in_front = |set: &&Set| matches!(set.how, How::InFront { .. });
        let foreign = self.set.values().filter(in_front).count();
        if set + removed > NAMED {
            write!(f, "set {set} routes and remove {removed}")?;
            return match foreign {
                0 => Ok(()),
                _ => write!(f, "; {foreign} of them in front of somebody else's"),
            };
        }
        let verb = |set: &Set| match set.how {
            How::Replace => "replace",
            How::Add | How::InFront { .. } => "add",
        };
        let removed = self.remove.iter();
        let removed = removed.map(|to| format!("remove the route {to}"));
        let set = self.set.iter();
        let set = set.map(|(to, set)| format!("{} the route {to} {set}", verb(set)));
        let all: Vec<_> = removed.chain(set).collect();
        f.write_str(&all.join(", "))
    }
}
