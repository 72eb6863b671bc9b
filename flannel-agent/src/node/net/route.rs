//! IPv4 routes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHopFlags, RouteProtocol,
    RouteScope, RouteType,
};
use rtnetlink::RouteMessageBuilder;

use super::Netlink;
use super::error::{NetError, outcome};

/// `RTPROT_*` of every route we make: our mark. Unassigned in iproute2's `rt_protos`.
pub const PROTOCOL: u8 = 0x66;

pub(super) const UNUSABLE: RouteNextHopFlags =
    RouteNextHopFlags::Dead.union(RouteNextHopFlags::Linkdown);

/// One way out of a route; several for ECMP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub index: u32,
    pub gateway: Option<Ipv4Addr>,
    /// The kernel will not use it: device down or without carrier.
    pub dead: bool,
}

/// A unicast route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub destination: Ipv4Net,
    pub paths: Vec<Path>,
    /// Preferred source address.
    pub source: Option<Ipv4Addr>,
    pub metric: u32,
    pub protocol: u8,
    /// Of the route itself, bytes.
    pub mtu: Option<u32>,
}

/// The interfaces that routes lead by: to single addresses inside a network, and out of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leads {
    pub pods: BTreeSet<u32>,
    pub outside: BTreeSet<u32>,
}

impl Route {
    /// Whether one of its paths leads out by this interface.
    #[must_use]
    pub fn leads_by(&self, index: u32) -> bool {
        self.paths.iter().any(|path| path.index == index)
    }
}

impl Netlink {
    /// The routes of the main table, lowest metric first.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn routes(&self) -> Result<Vec<Route>, NetError> {
        self.dump(RouteProtocol::Unspec).await
    }

    /// The routes of the main table that carry our mark.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn our_routes(&self) -> Result<Vec<Route>, NetError> {
        self.dump(PROTOCOL.into()).await
    }

    /// Where the interfaces lead that unicast routes of any table name.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn leads(&self, network: Ipv4Net) -> Result<Leads, NetError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let _turn = self.turn_to_dump().await;
        let mut dump = self.handle().route().get(message).execute();
        let mut leads = Leads::default();
        while let Some(message) = self
            .in_time(dump.try_next())
            .await
            .map_err(|e| NetError::netlink("list the routes of all tables", &e))?
        {
            let Some((_, route)) = parse_any(&message) else {
                continue;
            };
            let devices = route.paths.iter().map(|path| path.index);
            if !network.contains(&route.destination) {
                leads.outside.extend(devices);
            } else if route.destination.prefix_len() == 32 {
                leads.pods.extend(devices);
            }
        }
        Ok(leads)
    }

    async fn dump(&self, protocol: RouteProtocol) -> Result<Vec<Route>, NetError> {
        let mut routes = self.main_table(protocol, "list the routes", parse).await?;
        routes.sort_by_key(|route| route.metric);
        Ok(routes)
    }

    /// What the main table holds under `protocol`, routes of every type; all of it if that is unspecified. Of each, only what is
    /// made of it is kept: as messages, thousands are megabytes.
    pub(super) async fn main_table<T>(
        &self,
        protocol: RouteProtocol,
        doing: &str,
        made_of: impl Fn(&RouteMessage) -> Option<T>,
    ) -> Result<Vec<T>, NetError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = protocol;
        let _turn = self.turn_to_dump().await;
        let mut dump = self.handle().route().get(message).execute();
        let mut made = Vec::new();
        while let Some(found) = self
            .in_time(dump.try_next())
            .await
            .map_err(|e| NetError::netlink(doing, &e))?
        {
            // A kernel that does not filter dumps sends everything.
            if found.header.table == RouteHeader::RT_TABLE_MAIN
                && (protocol == RouteProtocol::Unspec || found.header.protocol == protocol)
            {
                made.extend(made_of(&found));
            }
        }
        Ok(made)
    }

    /// Removes every route of the main table that leads out by `index` alone, whoever made it.
    ///
    /// # Errors
    /// If the kernel refuses; routes that go meanwhile are fine.
    pub async fn flush_routes(&self, index: u32) -> Result<(), NetError> {
        for route in self.routes().await? {
            let [path] = route.paths.as_slice() else {
                continue;
            };
            if path.index != index {
                continue;
            }
            let to = route.destination;
            let message = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to.network(), to.prefix_len())
                .output_interface(index)
                .priority(route.metric)
                .protocol(RouteProtocol::Unspec)
                // Any scope.
                .scope(RouteScope::NoWhere)
                .build();
            outcome(
                format!("remove the route {to} dev #{index}"),
                self.in_time(self.handle().route().del(message).execute())
                    .await,
            )?;
        }
        Ok(())
    }
}

pub(super) fn ipv4(address: &RouteAddress) -> Option<Ipv4Addr> {
    match address {
        RouteAddress::Inet(ip) => Some(*ip),
        _ => None,
    }
}

fn parse(message: &RouteMessage) -> Option<Route> {
    let (table, route) = parse_any(message)?;
    (table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(route)
}

/// A unicast route, and which table it is in.
fn parse_any(message: &RouteMessage) -> Option<(u32, Route)> {
    if message.header.kind != RouteType::Unicast
        || message.header.address_family != AddressFamily::Inet
    {
        return None;
    }
    let mut destination = Ipv4Addr::UNSPECIFIED;
    let (mut gateway, mut index, mut source) = (None, None, None);
    let (mut metric, mut table) = (0, u32::from(message.header.table));
    let mut mtu = None;
    let mut paths = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => destination = ipv4(to)?,
            RouteAttribute::Gateway(via) => gateway = ipv4(via),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::PrefSource(from) => source = ipv4(from),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Table(id) => table = *id,
            RouteAttribute::Metrics(_) => mtu = super::metrics::mtu(attribute),
            RouteAttribute::MultiPath(hops) => {
                paths.extend(hops.iter().map(|hop| Path {
                    index: hop.interface_index,
                    gateway: hop.attributes.iter().find_map(|a| match a {
                        RouteAttribute::Gateway(via) => ipv4(via),
                        _ => None,
                    }),
                    dead: hop.flags.intersects(UNUSABLE),
                }));
            }
            _ => {}
        }
    }
    if let Some(index) = index {
        // The flags of a single path stand in the lowest byte of the route's own.
        let flags = message.header.flags.bits().to_le_bytes()[0];
        let dead = RouteNextHopFlags::from_bits_retain(flags).intersects(UNUSABLE);
        paths.push(Path {
            index,
            gateway,
            dead,
        });
    }
    // Of thousands, most have one, and a vector that grows takes room for four.
    paths.shrink_to_fit();
    let route = Route {
        destination: Ipv4Net::new(destination, message.header.destination_prefix_length).ok()?,
        paths,
        source,
        metric,
        protocol: message.header.protocol.into(),
        mtu,
    };
    Some((table, route))
}
