//! The peers: leases that this node can reach, and why it cannot use the others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use flannel_common::maps;
use ipnet::Ipv4Net;
use serde::Serialize;

use super::Inputs;
use super::hidden::hidden;
use crate::base::key::{Psk, PublicKey};
use crate::base::mac::MacAddr;
use crate::dataplane::{Peer, ROUTED};
use crate::flannel::lease::LeaseAttrs;
use crate::node::direct::OWN;
use crate::node::net::RouteTo;

/// All peers, as the maps hold them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Peers {
    pub table: BTreeMap<Ipv4Net, Peer>,
    /// Outer addresses that may send to us, with the number of leases that name them.
    pub vteps: BTreeMap<Ipv4Addr, u32>,
    /// VTEP MACs by which a peer is known that sends from another address, with the number of leases that name them.
    pub macs: BTreeMap<MacAddr, u32>,
    /// Those of the kernel's WireGuard device, of which the maps know nothing.
    pub sealed: BTreeMap<PublicKey, Sealed>,
    /// Leases that cannot be used, and why.
    pub ignored: BTreeMap<Ipv4Net, String>,
}

/// A peer behind the kernel's WireGuard device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sealed {
    pub endpoint: SocketAddrV4,
    /// Where other leases with the same key have it: those of a node that got another address and subnet stay for a day.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub elsewhere: BTreeSet<SocketAddrV4>,
    /// What it may send, and what is sent to it.
    pub allowed: BTreeSet<Ipv4Net>,
    #[serde(skip)]
    pub psk: Psk,
    /// Seconds; 0: it is not called.
    pub keepalive: u16,
}

impl Sealed {
    /// Where its leases have it.
    pub fn endpoints(&self) -> impl Iterator<Item = SocketAddrV4> {
        std::iter::once(self.endpoint).chain(self.elsewhere.iter().copied())
    }

    #[must_use]
    pub fn may_be_at(&self, at: SocketAddr) -> bool {
        self.endpoints()
            .any(|endpoint| SocketAddr::from(endpoint) == at)
    }
}

pub(super) fn peers(inputs: &Inputs<'_>) -> Peers {
    if inputs.config.backend.tunnel().is_none() {
        return routed(inputs);
    }
    let mut peers = Peers::default();
    for (subnet, attrs) in inputs.leases.iter() {
        if *subnet == inputs.subnet {
            continue;
        }
        match peer(inputs, *subnet, attrs) {
            Ok(peer) => {
                peers.table.insert(*subnet, peer);
            }
            Err(why) => {
                peers.ignored.insert(*subnet, why);
            }
        }
    }
    for (subnet, why) in hidden(inputs, &peers.table) {
        peers.table.remove(&subnet);
        peers.ignored.insert(subnet, why);
    }
    for peer in peers.table.values() {
        let vtep = peers.vteps.entry(peer.public_ip).or_default();
        *vtep += 1;
        if is_for_stack(inputs, peer.public_ip) {
            *vtep |= maps::BY_STACK;
        }
        // Without one a peer is known by its address alone.
        if peer.vtep_mac != MacAddr([0; 6]) {
            *peers.macs.entry(peer.vtep_mac).or_default() += 1;
        }
    }
    peers
}

/// host-gw: whom a route leads to. The routes name the leases that cannot be used.
fn routed(inputs: &Inputs<'_>) -> Peers {
    let mut peers = Peers::default();
    for (subnet, hop) in inputs.direct {
        *peers.vteps.entry(hop.via).or_default() += 1;
        let peer = Peer {
            public_ip: hop.via,
            next_hop: hop.via,
            vtep_mac: MacAddr([0; 6]),
            direct: !is_for_ipsec(inputs, *subnet),
            by_stack: is_for_ipsec(inputs, *subnet),
            mtu: None,
        };
        peers.table.insert(*subnet, peer);
    }
    peers
}

/// Whether the node's own stack has to see what goes to a peer in the tunnel, and what comes from it.
fn is_for_stack(inputs: &Inputs<'_>, peer: Ipv4Addr) -> bool {
    let Some(tunnel) = inputs.config.backend.tunnel() else {
        return false;
    };
    let uplink = inputs.uplink;
    let ours = [uplink.address, uplink.public_ip];
    inputs.facts.refused.contains(&peer) || inputs.facts.policies.cover(ours, peer, tunnel)
}

/// Whether a policy of IPsec is about pods' own packets between here and there.
fn is_for_ipsec(inputs: &Inputs<'_>, subnet: Ipv4Net) -> bool {
    inputs.facts.policies.cover_pods(inputs.subnet, subnet)
}

fn peer(inputs: &Inputs<'_>, subnet: Ipv4Net, attrs: &LeaseAttrs) -> Result<Peer, String> {
    inputs.config.check_peer(subnet, inputs.subnet)?;
    let vtep_mac = inputs.config.backend.vtep_mac(attrs);
    let vtep_mac = vtep_mac.map_err(|error| error.to_string())?;
    let public_ip = attrs.public_ip;
    check_address(inputs, public_ip)?;
    let way = inputs.facts.ways.get(&public_ip);
    // Only where the programs send is what they may send there: out of the uplink.
    let direct = inputs.direct.get(&subnet);
    let direct = direct.filter(|hop| hop.index == inputs.uplink.index);
    let by_stack = match direct {
        Some(_) => is_for_ipsec(inputs, subnet),
        None => is_for_stack(inputs, public_ip),
    };
    Ok(Peer {
        public_ip,
        direct: direct.is_some() && !by_stack,
        by_stack,
        next_hop: match direct {
            Some(_) => public_ip,
            None => way
                .filter(|_| !inputs.facts.by_protocol)
                .and_then(|way| way.next_hop(public_ip, inputs.uplink.index))
                .unwrap_or(ROUTED),
        },
        vtep_mac,
        mtu: mtu(inputs, way.filter(|_| direct.is_none())),
    })
}

/// Whether another node may have the address.
pub(super) fn check_address(inputs: &Inputs<'_>, public_ip: Ipv4Addr) -> Result<(), String> {
    let way = inputs.facts.ways.get(&public_ip);
    if public_ip == inputs.uplink.address || public_ip == inputs.uplink.public_ip {
        return Err(format!("PublicIP {public_ip} {OWN}"));
    }
    if way.is_some_and(|way| way.local) {
        return Err(format!("PublicIP {public_ip} is an address of this node"));
    }
    if public_ip.is_unspecified() || public_ip.is_multicast() || public_ip.is_broadcast() {
        return Err(format!("PublicIP {public_ip} is not the address of a node"));
    }
    Ok(())
}

/// As exactly as the maps can say it.
fn mtu(inputs: &Inputs<'_>, way: Option<&RouteTo>) -> Option<u32> {
    /// A little more than what every way carries (RFC 791: 68).
    const LEAST: u32 = 80;
    let backend = &inputs.config.backend;
    let overhead = backend.tunnel()?.wire.overhead();
    let overlay = backend.mtu(inputs.facts.underlay.mtu(inputs.uplink));
    let outer = way.and_then(|way| way.mtu).filter(|outer| *outer > 0)?;
    let inner = outer.saturating_sub(overhead).max(LEAST);
    (inner < overlay).then(|| maps::narrow(inner).1)
}
