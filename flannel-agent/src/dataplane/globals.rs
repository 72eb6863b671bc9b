//! What programs are told at their load.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Serialize;

use crate::base::mac::MacAddr;
use crate::base::options::{Gro, SourceCheck};
use crate::node::snat_ports::PortRange;

/// Constants of the programs, except for the interface indexes of the pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Globals {
    pub uplink_index: u32,
    pub uplink_ip: Ipv4Addr,
    /// Where peers send to.
    pub public_ip: Ipv4Addr,
    pub uplink_mac: MacAddr,
    pub vtep_mac: MacAddr,
    /// Value of [`flannel_common::globals::WIRE`].
    pub wire: u8,
    pub vni: u32,
    pub port: u16,
    /// VXLAN headers carry netfilter's mark.
    pub gbp: bool,
    pub network: Ipv4Net,
    pub subnet: Ipv4Net,
    pub local_ports: (u16, u16),
    pub source_check: SourceCheck,
    pub overlay_mtu: u32,
    pub gro: Gro,
    /// Value of [`flannel_common::globals::ANCHOR`].
    pub anchor: u8,
    /// Values of [`flannel_common::globals::FAST_PATH`] and [`flannel_common::globals::POD_HOOK`].
    pub fast_path: u8,
    pub pod_hook: u8,
    /// `None`: source NAT is off.
    pub snat_ports: Option<PortRange>,
    /// Where flows that find none of these free get theirs.
    pub snat_more: Option<PortRange>,
    /// Whether a flow keeps its port where it can.
    pub snat_keep: bool,
}

impl Globals {
    /// Whether replies to a port of this node are looked up in the table of source NAT.
    #[must_use]
    pub fn reaches(&self, port: u16) -> bool {
        let ranges = [self.snat_ports, self.snat_more].into_iter().flatten();
        self.snat_keep || ranges.into_iter().any(|range| range.has(port))
    }
}

/// What the loaded programs were told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loaded {
    pub globals: Globals,
    pub index: u32,
    pub gro_index: u32,
}
