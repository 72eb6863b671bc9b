//! From the routes that are to those that should be.

use std::fmt;

use ipnet::Ipv4Net;
use serde::Serialize;

use super::{Direct, Hop};
use crate::net::{PROTOCOL, Path, Route};

/// `RTPROT_BOOT` (rtnetlink.h): flanneld's routes carry it, and those of `ip route add`.
const BOOT: u8 = 3;

/// One step; may be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Change {
    Set {
        destination: Ipv4Net,
        hop: Hop,
        /// A route to the same destination gives way in the same step: there is never none, and never two.
        replace: bool,
    },
    Remove {
        destination: Ipv4Net,
        hop: Hop,
    },
    /// Somebody else's routing daemon has a route there.
    Leave {
        destination: Ipv4Net,
        protocol: u8,
    },
}

impl Change {
    /// One word for metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Set { .. } => "set_peer_route",
            Self::Remove { .. } => "remove_peer_route",
            Self::Leave { .. } => "leave_foreign_route",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set {
                destination,
                hop,
                replace,
            } => {
                let verb = if *replace { "replace" } else { "add" };
                write!(f, "{verb} the route {destination} via {}", hop.via)
            }
            Self::Remove { destination, hop } => {
                write!(f, "remove the route {destination} via {}", hop.via)
            }
            Self::Leave {
                destination,
                protocol,
            } => write!(
                f,
                "route {destination}: another route exists (protocol {protocol}); \
                 remove it (ip route del {destination} proto {protocol})"
            ),
        }
    }
}

/// Plans the way from the main table's `routes` to `wanted`.
#[must_use]
pub fn plan(wanted: &Direct, routes: &[Route]) -> Vec<Change> {
    let stale = routes.iter().filter_map(|route| {
        let hop = ours(route)?;
        let inside = wanted.network.contains(&route.destination)
            && wanted.network != route.destination
            && !wanted.routes.contains_key(&route.destination);
        inside.then_some(Change::Remove {
            destination: route.destination,
            hop,
        })
    });
    let missing = wanted.routes.iter().filter_map(|(destination, hop)| {
        // The kernel replaces within one metric; ours is 0.
        let held = routes
            .iter()
            .find(|route| route.destination == *destination && route.metric == 0);
        let set = |replace| Change::Set {
            destination: *destination,
            hop: *hop,
            replace,
        };
        match held {
            None => Some(set(false)),
            Some(route) if ours(route) == Some(*hop) => None,
            Some(route) if [PROTOCOL, BOOT].contains(&route.protocol) => Some(set(true)),
            Some(route) => Some(Change::Leave {
                destination: *destination,
                protocol: route.protocol,
            }),
        }
    });
    stale.chain(missing).collect()
}

/// The hop of a route that we made.
fn ours(route: &Route) -> Option<Hop> {
    match route.paths.as_slice() {
        [
            Path {
                index,
                gateway: Some(via),
                ..
            },
        ] if route.protocol == PROTOCOL => Some(Hop {
            via: *via,
            index: *index,
        }),
        _ => None,
    }
}
