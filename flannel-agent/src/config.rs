//! The network configuration at `<prefix>/config`, as flannel writes and validates it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// A validated network configuration with every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    pub network: Ipv4Net,
    pub subnet_len: u8,
    /// First and last subnet that may be leased, both inclusive.
    pub subnet_min: Ipv4Addr,
    pub subnet_max: Ipv4Addr,
    pub backend: Backend,
}

/// The backend section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    Vxlan(VxlanOptions),
    HostGw,
}

/// Options of the vxlan backend, with flannel's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanOptions {
    pub vni: u32,
    /// UDP port; flannel's 0 means the kernel's default, 8472.
    pub port: u16,
    /// Underlay MTU to assume instead of the uplink's.
    pub mtu: Option<u32>,
    pub direct_routing: bool,
}
