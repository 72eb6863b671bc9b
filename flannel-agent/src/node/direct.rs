//! Peers that need no tunnel: a kernel route to each one's subnet by way of its own address.
//!
//! This is all of the host-gw backend, and DirectRouting of the vxlan backend for peers on the same
//! link. Routes carry our protocol number, and the kernel forwards without us.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Serialize;

use crate::base::excerpt::excerpt;
use crate::flannel::backend::Routed;
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, Leases};
use crate::node::uplink::Uplink;

/// What is wrong with a lease of this node's own address. Of a node that got another subnet, the lease of the last one is there for a day.
pub const OWN: &str = "is an address of this node, its own";

/// One way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// The peer's own address.
    pub via: Ipv4Addr,
    pub index: u32,
}

/// The wanted routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Direct {
    pub routes: BTreeMap<Ipv4Net, Hop>,
    /// Leases that cannot be used, and why.
    pub ignored: BTreeMap<Ipv4Net, String>,
}

/// An uplink that host-gw cannot use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error(
        "host-gw cannot work behind NAT: the public IP {public_ip} is not the address {address} of {name}; \
         leave --public-ip out, or use the vxlan backend"
    )]
    BehindNat {
        name: String,
        address: Ipv4Addr,
        public_ip: Ipv4Addr,
    },
    #[error(
        "host-gw needs an uplink on the link of the other nodes, and {name} only holds the address {address}: name the interface \
         towards them with --iface, or use the vxlan backend"
    )]
    NoCarrier { name: String, address: Ipv4Addr },
}

/// Checks what flanneld checks before it starts with host-gw: peers send to the public IP as next hop.
///
/// # Errors
/// The public IP is not the uplink's own, or it has no link.
pub fn check_uplink(uplink: &Uplink) -> Result<(), Unfit> {
    let (name, address) = (uplink.name.clone(), uplink.address);
    if !uplink.is_carrier {
        return Err(Unfit::NoCarrier { name, address });
    }
    if uplink.public_ip == address {
        return Ok(());
    }
    Err(Unfit::BehindNat {
        name,
        address,
        public_ip: uplink.public_ip,
    })
}

/// Addresses of which it has to be known whether they are on-link.
#[must_use]
pub fn destinations(config: &NetworkConfig, leases: &Leases) -> BTreeSet<Ipv4Addr> {
    match config.backend.routed() {
        Routed::Neighbours => leases.values().map(|attrs| attrs.public_ip).collect(),
        Routed::All | Routed::Nobody => BTreeSet::new(),
    }
}

impl Direct {
    /// `on_link` has the interface of each neighbour among [`destinations`], `None` for the others.
    #[must_use]
    pub fn new(
        config: &NetworkConfig,
        own: Ipv4Net,
        leases: &Leases,
        uplink: &Uplink,
        on_link: &BTreeMap<Ipv4Addr, Option<u32>>,
    ) -> Self {
        let mut direct = Self {
            routes: BTreeMap::new(),
            ignored: BTreeMap::new(),
        };
        for (subnet, attrs) in leases.iter().filter(|(subnet, _)| **subnet != own) {
            let index = match config.backend.routed() {
                Routed::All => Some(uplink.index),
                Routed::Neighbours if config.backend.vtep_mac(attrs).is_ok() => {
                    on_link.get(&attrs.public_ip).copied().flatten()
                }
                Routed::Neighbours | Routed::Nobody => None,
            };
            let Some(index) = index else { continue };
            let place = config.check_peer(*subnet, own);
            match place.and_then(|()| usable(config, attrs, uplink)) {
                Ok(via) => {
                    direct.routes.insert(*subnet, Hop { via, index });
                }
                Err(why) => {
                    direct.ignored.insert(*subnet, why);
                }
            }
        }
        // The tunnel names the leases that it ignores itself.
        if config.backend.tunnel().is_some() {
            direct.ignored.clear();
        }
        direct
    }
}

fn usable(config: &NetworkConfig, attrs: &LeaseAttrs, uplink: &Uplink) -> Result<Ipv4Addr, String> {
    let backend = config.backend.name();
    if attrs.backend_type != backend {
        let other = excerpt(&attrs.backend_type);
        return Err(format!(
            "BackendType is {other:?}, not {backend:?}: all nodes of a network must use one backend"
        ));
    }
    let via = attrs.public_ip;
    if via == uplink.address || via == uplink.public_ip {
        return Err(format!("PublicIP {via} {OWN}"));
    }
    if via.is_unspecified() || via.is_multicast() || via.is_broadcast() || via.is_loopback() {
        return Err(format!("PublicIP {via} is not the address of a node"));
    }
    Ok(via)
}
