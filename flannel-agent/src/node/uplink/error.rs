//! Why there is no uplink, and what to do about it.

use std::net::Ipv4Addr;

use crate::node::net::NetError;

/// No usable uplink.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(
        "there is no default route in the main routing table to tell the uplink by; \
         name the interface with --iface (there are: {candidates})"
    )]
    NoDefaultRoute { candidates: String },
    #[error(
        "no interface holds --public-ip={address}; for an address behind NAT name the interface, \
         too, with --iface (there are: {candidates})"
    )]
    NobodyHolds {
        address: Ipv4Addr,
        candidates: String,
    },
    #[error("no interface fits: {}; there are: {candidates}", tried.join("; "))]
    NoneFits {
        /// One line per flag value that was tried.
        tried: Vec<String>,
        candidates: String,
    },
    #[error(
        "the uplink {name} has no IPv4 address: give it one, or choose another interface with --iface"
    )]
    NoAddress { name: String },
    #[error(
        "the uplink {name} has no address that other nodes can reach: give it one (ip addr add ADDRESS/32 dev {name}), or choose \
         another interface with --iface"
    )]
    Loopback { name: String },
    #[error(
        "the uplink {name} is neither an Ethernet device nor one without link-layer header (tun, WireGuard, ipip, gre): choose \
         another interface with --iface"
    )]
    NotEthernet { name: String },
    #[error("the uplink {name} has MTU {mtu}: at least {minimum} is needed")]
    Mtu {
        name: String,
        mtu: u32,
        minimum: u32,
    },
}
