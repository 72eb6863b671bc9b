//! Route look-up: what the kernel would do with a packet.

use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use super::Netlink;
use super::error::NetError;
use super::route::ipv4;

/// Where packets to one destination go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    pub index: u32,
    /// The gateway, or the destination itself when it is on-link.
    pub via: Ipv4Addr,
    /// Source address the kernel would choose.
    pub source: Option<Ipv4Addr>,
    /// The destination is an address of this node.
    pub local: bool,
}

impl Netlink {
    /// Looks a destination up, on any interface or on the given one.
    ///
    /// # Errors
    /// `ENETUNREACH` and its like: there is no route.
    pub async fn next_hop(
        &self,
        destination: Ipv4Addr,
        index: Option<u32>,
    ) -> Result<NextHop, NetError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = 32;
        message
            .attributes
            .push(RouteAttribute::Destination(RouteAddress::Inet(destination)));
        if let Some(index) = index {
            message.attributes.push(RouteAttribute::Oif(index));
        }
        let action = || format!("find a route to {destination}");
        let mut answers = self.handle().route().get(message).execute();
        let answer = self
            .in_time(answers.try_next())
            .await
            .map_err(|e| NetError::netlink(action(), &e))?;
        answer
            .and_then(|answer| parse(&answer, destination))
            .ok_or_else(|| NetError::Failed {
                action: action(),
                reason: "the kernel's answer names no interface".to_owned(),
            })
    }
}

fn parse(message: &RouteMessage, destination: Ipv4Addr) -> Option<NextHop> {
    let (mut index, mut via, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Gateway(gateway) => via = ipv4(gateway),
            RouteAttribute::PrefSource(from) => source = ipv4(from),
            _ => {}
        }
    }
    Some(NextHop {
        index: index?,
        via: via.unwrap_or(destination),
        source,
        local: message.header.kind == RouteType::Local,
    })
}
