//! IPv4 addresses of interfaces.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};

use super::Netlink;
use super::error::{NetError, Outcome, outcome};

/// One IPv4 address of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub index: u32,
    /// The address itself (host bits set) with its prefix length.
    pub net: Ipv4Net,
    /// Whom it is a neighbour of: its subnet, or the other side's on a point-to-point link.
    pub link: Ipv4Net,
    /// Reachable from beyond the link (`scope global` or `site`).
    pub global: bool,
    /// Configured for good, not by DHCP.
    pub permanent: bool,
    /// One of several of the same prefix, behind the first.
    pub secondary: bool,
    /// Its preferred lifetime is over.
    pub deprecated: bool,
}

impl Address {
    #[must_use]
    pub const fn ip(&self) -> Ipv4Addr {
        self.net.addr()
    }
}

impl Netlink {
    /// Every IPv4 address of this network namespace, in the kernel's order.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn addresses(&self) -> Result<Vec<Address>, NetError> {
        let mut request = self.handle().address().get();
        request.message_mut().header.family = AddressFamily::Inet;
        let _turn = self.turn_to_dump().await;
        let messages: Vec<AddressMessage> = self
            .in_time(request.execute().try_collect())
            .await
            .map_err(|e| NetError::netlink("list the addresses", &e))?;
        Ok(messages.iter().filter_map(parse).collect())
    }

    /// Adds an address.
    ///
    /// # Errors
    /// [`Outcome::Exists`] is not an error; any other refusal is.
    pub async fn add_address(&self, index: u32, net: Ipv4Net) -> Result<Outcome, NetError> {
        let request = self
            .handle()
            .address()
            .add(index, IpAddr::V4(net.addr()), net.prefix_len());
        outcome(
            format!("add the address {net} to interface #{index}"),
            self.in_time(request.execute()).await,
        )
    }

    /// Removes an address.
    ///
    /// # Errors
    /// [`Outcome::Missing`] is not an error; any other refusal is.
    pub async fn remove_address(&self, index: u32, net: Ipv4Net) -> Result<Outcome, NetError> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = net.prefix_len();
        message.header.index = index;
        message
            .attributes
            .push(AddressAttribute::Local(IpAddr::V4(net.addr())));
        outcome(
            format!("remove the address {net} from interface #{index}"),
            self.in_time(self.handle().address().del(message).execute())
                .await,
        )
    }
}

fn parse(message: &AddressMessage) -> Option<Address> {
    let header = &message.header;
    let (mut local, mut address) = (None, None);
    let mut flags = AddressFlags::from_bits_retain(u32::from(header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(IpAddr::V4(ip)) => local = Some(*ip),
            AddressAttribute::Address(IpAddr::V4(ip)) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // On a point-to-point link "address" is the other side; "local" is always ours.
    let net = Ipv4Net::new(local.or(address)?, header.prefix_len).ok()?;
    let link = Ipv4Net::new(address.unwrap_or(net.addr()), header.prefix_len).ok()?;
    Some(Address {
        index: header.index,
        net,
        link: link.trunc(),
        global: matches!(header.scope, AddressScope::Universe | AddressScope::Site),
        permanent: flags.contains(AddressFlags::Permanent),
        secondary: header.flags.contains(AddressHeaderFlags::Secondary),
        deprecated: flags.contains(AddressFlags::Deprecated),
    })
}
