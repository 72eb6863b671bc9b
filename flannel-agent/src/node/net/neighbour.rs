//! Who does not answer.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use futures_util::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use super::Netlink;
use super::error::NetError;

/// So many questions without an answer are no coincidence.
const PATIENCE: u32 = 2;

impl Netlink {
    /// Device and address of every neighbour that was asked for its link-layer address, and does not answer.
    ///
    /// # Errors
    /// If the kernel refuses the dump.
    pub async fn silent_neighbours(&self) -> Result<BTreeSet<(u32, Ipv4Addr)>, NetError> {
        let request = self.handle().neighbours().get();
        let request = request.set_address_family(AddressFamily::Inet);
        let _turn = self.turn_to_dump().await;
        let messages: Vec<NeighbourMessage> =
            self.in_time(request.execute().try_collect())
                .await
                .map_err(|e| NetError::netlink("list the neighbours", &e))?;
        Ok(messages.iter().filter_map(silent).collect())
    }
}

fn silent(message: &NeighbourMessage) -> Option<(u32, Ipv4Addr)> {
    let (mut address, mut asked) = (None, 0);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(*ip),
            NeighbourAttribute::Probes(probes) => asked = *probes,
            _ => {}
        }
    }
    let silent = match message.header.state {
        NeighbourState::Failed => true,
        NeighbourState::Incomplete => asked >= PATIENCE,
        _ => false,
    };
    silent.then_some((message.header.ifindex, address?))
}
