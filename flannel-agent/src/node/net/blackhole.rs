//! Routes that throw packets away.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::RouteMessageBuilder;

use super::Netlink;
use super::error::{NetError, Outcome, outcome};
use super::route::{PROTOCOL, ipv4};

/// Behind every other route to the same destination: the bridge's own, above all.
const LAST: u32 = u32::MAX;

impl Netlink {
    /// Destinations of our blackhole routes.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn blackholes(&self) -> Result<Vec<Ipv4Net>, NetError> {
        self.main_table(PROTOCOL.into(), "list the blackhole routes", parse)
            .await
    }

    /// Packets to `destination` that no other route leads to are dropped.
    ///
    /// # Errors
    /// [`Outcome::Exists`] is not an error; any other refusal is.
    pub async fn add_blackhole(&self, destination: Ipv4Net) -> Result<Outcome, NetError> {
        let request = self.handle().route().add(blackhole(destination));
        outcome(
            format!("add the blackhole route {destination}"),
            self.in_time(request.execute()).await,
        )
    }

    /// Removes our blackhole route to `destination`.
    ///
    /// # Errors
    /// [`Outcome::Missing`] is not an error; any other refusal is.
    pub async fn remove_blackhole(&self, destination: Ipv4Net) -> Result<Outcome, NetError> {
        let request = self.handle().route().del(blackhole(destination));
        outcome(
            format!("remove the blackhole route {destination}"),
            self.in_time(request.execute()).await,
        )
    }
}

fn blackhole(destination: Ipv4Net) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(destination.network(), destination.prefix_len())
        .kind(RouteType::BlackHole)
        .scope(RouteScope::Universe)
        .protocol(PROTOCOL.into())
        .priority(LAST)
        .build()
}

fn parse(message: &RouteMessage) -> Option<Ipv4Net> {
    if message.header.kind != RouteType::BlackHole {
        return None;
    }
    let destination = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Destination(to) => ipv4(to),
        _ => None,
    });
    Ipv4Net::new(destination?, message.header.destination_prefix_length).ok()
}
