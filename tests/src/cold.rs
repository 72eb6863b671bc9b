//! Nodes that have forgotten their neighbours, and the first packet after that.

use std::net::Ipv4Addr;

use crate::host::Host;
use crate::node::Node;
use crate::pod::Pod;
use crate::{handshake, udp};

/// What is sent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    Ping,
    Datagram,
    /// In six fragments, which all wait for the neighbour.
    LongDatagram,
    Connection,
}

impl First {
    /// One of it from `client` to `server`, and the answer, after `forget`, by which nodes get cold.
    ///
    /// # Panics
    /// If either does not arrive, or not the first time.
    #[track_caller]
    pub fn reaches(self, forget: impl Fn(), client: &impl Host, server: &Pod) {
        self.reaches_at(forget, client, server, server.address());
    }

    /// The same for anybody at this address.
    ///
    /// # Panics
    /// As above.
    #[track_caller]
    pub fn reaches_at(
        self,
        forget: impl Fn(),
        client: &impl Host,
        server: &impl Host,
        address: Ipv4Addr,
    ) {
        forget();
        match self {
            Self::Ping => {
                client.ping(address).count(1).succeeds();
            }
            Self::Datagram => drop(udp::exchange(client, server, address, 100)),
            Self::LongDatagram => drop(udp::exchange(client, server, address, 8192)),
            Self::Connection => handshake::loses_nothing(client, server, address),
        }
    }
}

/// Empties every neighbour table of `host`: it has not talked to anybody for long. What is permanent stays: it is flannel's.
#[track_caller]
pub fn forget_everybody(host: &(impl Host + ?Sized)) {
    host.exec("ip neigh flush all");
}

/// Empties the neighbour table of the uplink, as for a node that has not sent there for long.
#[track_caller]
pub fn forget_neighbours(node: &Node) {
    // Entries that somebody still holds stay as failed ones, which is as cold.
    node.exec(&format!("ip neigh flush dev {}", Node::UPLINK));
}
