//! The leases as the maps hold them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use flannel_common::maps;
use ipnet::Ipv4Net;
use serde::Serialize;

use crate::base::mac::MacAddr;

/// In the place of a next hop: packets take whatever way the routing table has for each. By another device than the uplink,
/// by one of several paths, or by none.
pub const ROUTED: Ipv4Addr = Ipv4Addr::from_octets(maps::ROUTED);

/// How to reach one subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Peer {
    pub public_ip: Ipv4Addr,
    pub next_hop: Ipv4Addr,
    pub vtep_mac: MacAddr,
    /// Reached without a tunnel.
    pub direct: bool,
    /// In the tunnel, but by way of the node's own stack: IPsec, or a rule of the host's firewall, has a say.
    pub by_stack: bool,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            public_ip,
            next_hop,
            vtep_mac,
            direct,
            by_stack,
        } = self;
        if *direct {
            return write!(f, "{public_ip} (without tunnel)");
        }
        write!(f, "{public_ip} ({vtep_mac}")?;
        if *next_hop == ROUTED {
            f.write_str(", as routed")?;
        } else if next_hop != public_ip {
            write!(f, ", via {next_hop}")?;
        }
        if *by_stack {
            f.write_str(", by the node's stack")?;
        }
        f.write_str(")")
    }
}

impl From<Peer> for maps::Peer {
    fn from(peer: Peer) -> Self {
        Self {
            public_ip: peer.public_ip.octets(),
            next_hop: peer.next_hop.octets(),
            vtep_mac: peer.vtep_mac.0,
            kind: match (peer.direct, peer.by_stack) {
                (true, _) => maps::PEER_DIRECT,
                (false, true) => maps::PEER_STACK,
                (false, false) => maps::PEER_VXLAN,
            },
            pad: 0,
        }
    }
}

/// The peers as the maps hold them; `None` for an entry this version does not understand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PeerMaps {
    pub table: BTreeMap<Ipv4Net, Option<Peer>>,
    pub vteps: BTreeMap<Ipv4Addr, u32>,
    pub macs: BTreeMap<MacAddr, u32>,
}

impl PeerMaps {
    /// What the maps hold after the changes.
    pub fn apply(&mut self, changes: &PeerChanges) {
        let put = changes.put.iter().map(|(s, p)| (*s, Some(*p)));
        self.table.extend(put);
        self.table.retain(|s, _| !changes.remove.contains(s));
        self.vteps.extend(&changes.put_vteps);
        self.vteps
            .retain(|ip, _| !changes.remove_vteps.contains(ip));
        self.macs.extend(&changes.put_macs);
        self.macs
            .retain(|mac, _| !changes.remove_macs.contains(mac));
    }
}

/// So many changes are named one by one; more are counted.
const NAMED: usize = 4;

/// Entries to write and to remove.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PeerChanges {
    pub put: BTreeMap<Ipv4Net, Peer>,
    pub remove: BTreeSet<Ipv4Net>,
    pub put_vteps: BTreeMap<Ipv4Addr, u32>,
    pub remove_vteps: BTreeSet<Ipv4Addr>,
    pub put_macs: BTreeMap<MacAddr, u32>,
    pub remove_macs: BTreeSet<MacAddr>,
    /// A peer changes or goes, so flows may run on what was true of it. A new peer has no flows.
    pub ends_proofs: bool,
}

impl fmt::Display for PeerChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (put, removed) = (self.put.len(), self.remove.len());
        if put + removed > NAMED {
            return write!(f, "write {put} peers and remove {removed}");
        }
        if put + removed == 0 {
            return write!(
                f,
                "correct {} known sources",
                self.put_vteps.len()
                    + self.remove_vteps.len()
                    + self.put_macs.len()
                    + self.remove_macs.len()
            );
        }
        let put = self.put.iter().map(|(s, peer)| format!("{s} at {peer}"));
        let removed = self.remove.iter().map(|s| format!("{s} gone"));
        let all: Vec<_> = put.chain(removed).collect();
        write!(f, "update peers: {}", all.join(", "))
    }
}
