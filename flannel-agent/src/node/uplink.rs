//! The uplink: the interface and address that carry the tunnel.

mod address;
mod error;
mod select;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::Ipv4Addr;

use flannel_common::Mac;

pub use address::Memory;
pub use error::UplinkError;
use select::Snapshot;

use crate::base::options::UplinkChoice;
use crate::node::net::Netlink;

/// The interface towards the other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    pub name: String,
    pub index: u32,
    /// Largest packet without the Ethernet header, bytes.
    pub mtu: u32,
    pub mac: Mac,
    /// Our outer source address: one that the interface holds.
    pub address: Ipv4Addr,
    /// What peers send to; differs from `address` behind NAT.
    pub public_ip: Ipv4Addr,
    /// Whether packets come and go by it. The loopback device and dummies only hold the address: what carries packets is
    /// whatever the routing table leads to.
    pub is_carrier: bool,
    /// Why this one, for the log.
    pub why: String,
}

impl Uplink {
    /// Whether nothing is different but why it was chosen.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let why = self.why.clone();
        *self
            == Self {
                why,
                ..other.clone()
            }
    }
}

impl fmt::Display for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            mtu,
            address,
            public_ip,
            why,
            ..
        } = self;
        write!(f, "{name} ({address}, MTU {mtu}")?;
        if public_ip != address {
            write!(f, ", public {public_ip}")?;
        }
        write!(f, "; {why})")
    }
}

/// Finds the uplink by flanneld's rules, and its address by what is known of it. `known`: the uplink so far.
///
/// # Errors
/// What was asked for is not there, or cannot carry the tunnel.
pub async fn find(
    netlink: &Netlink,
    choice: &UplinkChoice,
    memory: &Memory,
    known: Option<&Uplink>,
) -> Result<Uplink, UplinkError> {
    let reach = match choice.can_reach {
        Some(to) => Some((to, netlink.next_hop(to, None).await)),
        None => None,
    };
    let snapshot = Snapshot {
        links: netlink.links().await?,
        addresses: netlink.addresses().await?,
        routes: netlink.routes().await?,
        reach,
    };
    match known {
        Some(known) => snapshot.select_again(choice, memory, known),
        None => snapshot.select(choice, memory),
    }
}
