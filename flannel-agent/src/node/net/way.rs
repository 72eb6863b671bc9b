//! The way of a packet that this node sends: the route that the kernel takes for it, with all its paths.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHopFlags,
    RouteType, RouteVia,
};

use super::Netlink;
use super::error::NetError;
use super::metrics::mtu;
use super::route::{PROTOCOL, UNUSABLE, ipv4};

const UDP: u8 = 17;

/// What routing rules see of a packet, besides its destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sender {
    pub source: Option<Ipv4Addr>,
    /// It goes to this UDP port. Of other protocols than UDP, TCP and ICMP the kernel answers no question (`rtm_getroute_parse_ip_proto`).
    pub udp_port: Option<u16>,
}

/// Whom a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Towards {
    /// The destination itself.
    Neighbour,
    Gateway(Ipv4Addr),
    /// A gateway that is asked for by another family (RFC 5549).
    Gateway6(Ipv6Addr),
    /// Labels, tunnels without a device: the kernel alone knows.
    Other,
}

/// One way out of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branch {
    pub index: u32,
    pub towards: Towards,
    /// The device is down or has no carrier. The kernel may use it all the same (`ignore_routes_with_linkdown`).
    pub dead: bool,
}

/// A route to one destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteTo {
    /// Several for ECMP. None if the kernel does not list them (`nexthop_compat_mode`).
    pub legs: Vec<Branch>,
    /// The destination is an address of this node.
    pub local: bool,
    /// The route is one for everything.
    pub by_default: bool,
    /// Length of its prefix; `None`: it is in another table than the agent's, or nobody asked.
    pub in_main: Option<u8>,
    /// It is one of ours.
    pub ours: bool,
    /// What the route itself says that it carries, bytes of an IPv4 packet.
    pub mtu: Option<u32>,
}

impl RouteTo {
    /// The one address whose link-layer address packets to `destination` get, all of them by device `index`.
    #[must_use]
    pub fn next_hop(&self, destination: Ipv4Addr, index: u32) -> Option<Ipv4Addr> {
        match self.legs.as_slice() {
            [leg] if leg.index == index => match leg.towards {
                Towards::Neighbour => Some(destination),
                Towards::Gateway(via) => Some(via),
                Towards::Gateway6(_) | Towards::Other => None,
            },
            _ => None,
        }
    }

    /// The device on which the destination is a neighbour. Not by a default route: who says that all the world is on its
    /// link means a point-to-point link or a router that answers for it, and the same for peers it cannot be.
    #[must_use]
    pub fn on_link(&self) -> Option<u32> {
        match self.legs.as_slice() {
            [leg] if leg.towards == Towards::Neighbour && !leg.dead => {
                (!self.local && !self.by_default).then_some(leg.index)
            }
            _ => None,
        }
    }

    /// By which devices it leads.
    pub fn devices(&self) -> impl Iterator<Item = u32> {
        self.legs.iter().map(|leg| leg.index)
    }

    /// Whom the kernel has to find on which device.
    pub fn neighbours(&self, destination: Ipv4Addr) -> impl Iterator<Item = (u32, Ipv4Addr)> {
        self.legs.iter().filter_map(move |leg| match leg.towards {
            Towards::Neighbour => Some((leg.index, destination)),
            Towards::Gateway(via) => Some((leg.index, via)),
            Towards::Gateway6(_) | Towards::Other => None,
        })
    }
}

impl fmt::Display for Towards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Neighbour => f.write_str("on-link"),
            Self::Gateway(via) => write!(f, "via {via}"),
            Self::Gateway6(via) => write!(f, "via inet6 {via}"),
            Self::Other => f.write_str("encapsulated by the route"),
        }
    }
}

impl Netlink {
    /// Asks which route a packet to `destination` takes that this node itself sends: by rules, tables and metrics, and by
    /// whatever device.
    ///
    /// # Errors
    /// `ENETUNREACH` and its like: there is no route, or one that forbids.
    pub async fn way(&self, destination: Ipv4Addr, sender: Sender) -> Result<RouteTo, NetError> {
        let message = question(destination, sender);
        let doing = || format!("find a route to {destination}");
        let mut answers = self.handle().route().get(message).execute();
        let answer = self.in_time(answers.try_next()).await;
        let answer = answer.map_err(|e| NetError::netlink(doing(), &e))?;
        answer.as_ref().map(parse).ok_or_else(|| NetError::Failed {
            action: doing(),
            reason: "the kernel does not answer".to_owned(),
        })
    }
}

/// The route, not the path that this very packet would take.
pub(super) fn question(destination: Ipv4Addr, sender: Sender) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 32;
    // Without the second, every route is said to be in the main table (`inet_rtm_getroute`).
    message.header.flags = RouteFlags::FibMatch | RouteFlags::LookupTable;
    let to = RouteAttribute::Destination(RouteAddress::Inet(destination));
    message.attributes.push(to);
    if let Some(source) = sender.source {
        message.header.source_prefix_length = 32;
        let from = RouteAttribute::Source(RouteAddress::Inet(source));
        message.attributes.push(from);
    }
    if let Some(port) = sender.udp_port {
        message.attributes.push(RouteAttribute::IpProto(UDP));
        message.attributes.push(RouteAttribute::Dport(port));
    }
    message
}

pub(super) fn parse(message: &RouteMessage) -> RouteTo {
    let mut legs = Vec::new();
    let mut single = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => single = Some(*index),
            RouteAttribute::MultiPath(hops) => legs.extend(hops.iter().map(|hop| Branch {
                index: hop.interface_index,
                towards: towards(&hop.attributes),
                dead: hop.flags.intersects(UNUSABLE),
            })),
            _ => {}
        }
    }
    if let Some(index) = single {
        // The flags of a single path stand in the lowest byte of the route's own.
        let flags = message.header.flags.bits().to_le_bytes()[0];
        legs.push(Branch {
            index,
            towards: towards(&message.attributes),
            dead: RouteNextHopFlags::from_bits_retain(flags).intersects(UNUSABLE),
        });
    }
    // Of thousands, most have one, and a vector that grows takes room for four.
    legs.shrink_to_fit();
    RouteTo {
        legs,
        local: message.header.kind == RouteType::Local,
        by_default: message.header.destination_prefix_length == 0,
        in_main: (message.header.table == RouteHeader::RT_TABLE_MAIN)
            .then_some(message.header.destination_prefix_length),
        ours: u8::from(message.header.protocol) == PROTOCOL,
        mtu: message.attributes.iter().find_map(mtu),
    }
}

fn towards(attributes: &[RouteAttribute]) -> Towards {
    let mut towards = Towards::Neighbour;
    for attribute in attributes {
        towards = match attribute {
            RouteAttribute::Gateway(gateway) => {
                ipv4(gateway).map_or(Towards::Other, Towards::Gateway)
            }
            RouteAttribute::Via(RouteVia::Inet(via)) => Towards::Gateway(*via),
            RouteAttribute::Via(RouteVia::Inet6(via)) => Towards::Gateway6(*via),
            RouteAttribute::Via(_) | RouteAttribute::EncapType(_) => return Towards::Other,
            _ => towards,
        };
    }
    towards
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

    fn way(legs: &[(u32, Towards)]) -> RouteTo {
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
    fn one_next_hop_by_the_uplink_or_none() {
        let next_hop = |legs: &[(u32, Towards)]| way(legs).next_hop(PEER, 2);
        assert_eq!(next_hop(&[(2, Towards::Neighbour)]), Some(PEER));
        assert_eq!(next_hop(&[(2, Towards::Gateway(GATEWAY))]), Some(GATEWAY));
        assert_eq!(next_hop(&[(3, Towards::Gateway(GATEWAY))]), None);
        let six = Towards::Gateway6(Ipv6Addr::LOCALHOST);
        assert_eq!(next_hop(&[(2, six)]), None);
        let both = [(2, Towards::Neighbour), (2, Towards::Gateway(GATEWAY))];
        assert_eq!(next_hop(&both), None);
        assert_eq!(next_hop(&[]), None);
    }

    #[test]
    fn a_neighbour_is_one_by_a_route_of_its_own_link_that_lives() {
        let near = way(&[(2, Towards::Neighbour)]);
        assert_eq!(near.on_link(), Some(2));
        assert_eq!(way(&[(2, Towards::Gateway(GATEWAY))]).on_link(), None);
        let default = RouteTo {
            by_default: true,
            ..near.clone()
        };
        assert_eq!(default.on_link(), None);
        let local = RouteTo {
            local: true,
            ..near.clone()
        };
        assert_eq!(local.on_link(), None);
        let mut dead = near;
        dead.legs[0].dead = true;
        assert_eq!(dead.on_link(), None);
    }
}
