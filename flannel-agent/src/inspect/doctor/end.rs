//! This node's end of the tunnel, from which those of the peers are asked.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::Patient;
use crate::node::ping::{Ping, Pinger};

/// Every way carries it (RFC 791).
pub(super) const SIZE: u32 = 68;

/// Behind the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    pub subnet: Ipv4Net,
    pub node: Ipv4Addr,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.subnet, self.node)
    }
}

impl Peer {
    pub(super) const fn new(subnet: Ipv4Net, node: Ipv4Addr) -> Self {
        Self { subnet, node }
    }
}

/// This node's end of the tunnel.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    index: u32,
    /// The first address of its subnet.
    address: Ipv4Addr,
}

impl End {
    /// `None`: the device has lost its address; the agent gives it anew.
    pub(super) fn of_device(patient: &Patient<'_>, index: u32) -> Option<Self> {
        let mut addresses = patient.addresses.iter();
        let address = addresses.find(|it| it.index == index && it.net.prefix_len() == 32)?;
        let address = address.ip();
        Some(Self { index, address })
    }

    /// Whether each answers.
    pub(super) fn ask(&self, peers: &[Peer]) -> io::Result<Vec<bool>> {
        let pings: Vec<Ping> = peers.iter().flat_map(asked).collect();
        let answers = Pinger::by_device(self.address, self.index)?.ask(&pings)?;
        let each = answers.chunks(ADDRESSES);
        Ok(each.map(|said| said.iter().any(Option::is_some)).collect())
    }
}

const ADDRESSES: usize = 2;

/// The first address of its subnet, which the tunnel's device has, flanneld's as well as ours; and the bridge's, if it has one: where that
/// came before the tunnel's device, kernels before 5.14 take the first address for the bridge's broadcast, and answer nothing.
fn asked(peer: &Peer) -> [Ping; ADDRESSES] {
    let first = peer.subnet.network().to_bits();
    [first, first + 1].map(|address| Ping {
        to: Ipv4Addr::from_bits(address),
        size: SIZE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_addresses_that_a_peer_may_answer_from_are_asked() {
        let subnet = Ipv4Net::new_assert([10, 244, 7, 0].into(), 24);
        let to = asked(&Peer::new(subnet, [192, 0, 2, 7].into())).map(|ping| ping.to.to_string());
        assert_eq!(to, ["10.244.7.0", "10.244.7.1"]);
    }
}
