//! How packets get from node to node. All that tells one backend from another, as far as leases and plain numbers say it;
//! each has a file here.

mod alloc;
mod extension;
mod host_gw;
mod ipip;
mod tunnel;
mod udp;
mod vxlan;
mod wireguard;

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::base::mac::MacAddr;
use crate::flannel::lease::LeaseAttrs;

pub use extension::{CommandLine, ExtensionOptions};
pub use ipip::IpipOptions;
pub use tunnel::{Tunnel, Wire};
pub use udp::UdpOptions;
pub use vxlan::{TUNNEL_OVERHEAD, VtepError, VxlanData, VxlanOptions};
pub(crate) use wireguard::OVERHEAD as WIREGUARD_OVERHEAD;
pub use wireguard::{WireGuardData, WireGuardOptions};

/// The backend section of a network's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backend {
    Vxlan(VxlanOptions),
    Udp(UdpOptions),
    Ipip(IpipOptions),
    HostGw,
    /// Leases alone.
    Alloc,
    /// Commands of the operator's.
    Extension(ExtensionOptions),
    /// The kernel's own tunnel.
    WireGuard(WireGuardOptions),
}

/// Which nodes' subnets the main routing table leads to by the nodes themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routed {
    All,
    /// Those on a link of ours, as `DirectRouting` has it.
    Neighbours,
    Nobody,
}

impl Backend {
    /// The name in the configuration.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Vxlan(_) => vxlan::NAME,
            Self::Udp(_) => udp::NAME,
            Self::Ipip(_) => ipip::NAME,
            Self::HostGw => host_gw::NAME,
            Self::Alloc => alloc::NAME,
            Self::Extension(_) => extension::NAME,
            Self::WireGuard(_) => wireguard::NAME,
        }
    }

    /// The name in leases. Nodes ignore leases of another backend.
    #[must_use]
    pub const fn lease_type(&self) -> &'static str {
        match self {
            Self::Alloc => alloc::TYPE,
            Self::Udp(_) => udp::TYPE,
            _ => self.name(),
        }
    }

    /// Whether programs of ours bring packets to peers, or routes by which they can.
    #[must_use]
    pub fn forwards(&self) -> bool {
        self.tunnel().is_some() || self.routed() != Routed::Nobody
    }

    /// The commands that bring packets to peers, if there are any.
    #[must_use]
    pub const fn commands(&self) -> Option<&ExtensionOptions> {
        match self {
            Self::Extension(options) => Some(options),
            _ => None,
        }
    }

    /// The kernel's tunnel, if that is what brings packets to peers.
    #[must_use]
    pub const fn wireguard(&self) -> Option<&WireGuardOptions> {
        match self {
            Self::WireGuard(options) => Some(options),
            _ => None,
        }
    }

    /// The tunnel of ours between nodes, if they have one.
    #[must_use]
    pub const fn tunnel(&self) -> Option<Tunnel> {
        match self {
            Self::Vxlan(options) => Some(Tunnel {
                wire: Wire::Vxlan { vni: options.vni },
                port: Some(options.port),
                gbp: options.gbp,
            }),
            Self::Udp(options) => Some(Tunnel {
                wire: Wire::Udp,
                port: Some(options.port),
                gbp: false,
            }),
            Self::Ipip(_) => Some(Tunnel {
                wire: Wire::Ipip,
                port: None,
                gbp: false,
            }),
            Self::HostGw | Self::Alloc | Self::Extension(_) | Self::WireGuard(_) => None,
        }
    }

    /// The UDP port on which the tunnel's packets come, ours or the kernel's, if they have one.
    #[must_use]
    pub fn udp_port(&self) -> Option<u16> {
        match self {
            Self::WireGuard(options) => Some(options.port),
            _ => self.tunnel()?.port,
        }
    }

    /// The longest packet between pods, where the wire carries packets of `underlay` bytes.
    #[must_use]
    pub fn mtu(&self, underlay: u32) -> u32 {
        match self {
            Self::Vxlan(options) => options.mtu(underlay),
            Self::Udp(_) => underlay.saturating_sub(Wire::Udp.overhead()),
            Self::Ipip(_) => underlay.saturating_sub(Wire::Ipip.overhead()),
            Self::WireGuard(options) => options.mtu(underlay),
            Self::HostGw | Self::Alloc | Self::Extension(_) => underlay,
        }
    }

    #[must_use]
    pub const fn routed(&self) -> Routed {
        match self {
            Self::Vxlan(VxlanOptions {
                direct_routing: true,
                ..
            })
            | Self::Ipip(IpipOptions {
                direct_routing: true,
            }) => Routed::Neighbours,
            Self::Vxlan(_)
            | Self::Udp(_)
            | Self::Ipip(_)
            | Self::Alloc
            | Self::Extension(_)
            | Self::WireGuard(_) => Routed::Nobody,
            Self::HostGw => Routed::All,
        }
    }

    /// What a node at `public_ip` publishes. Only the end of vxlan's tunnel has a MAC.
    #[must_use]
    pub fn attrs(&self, public_ip: Ipv4Addr, vtep_mac: MacAddr) -> LeaseAttrs {
        match self {
            Self::Vxlan(options) => LeaseAttrs::vxlan(public_ip, options.vni, vtep_mac),
            Self::Udp(_) => LeaseAttrs::udp(public_ip),
            Self::Ipip(_) => LeaseAttrs::ipip(public_ip),
            Self::HostGw => LeaseAttrs::host_gw(public_ip),
            Self::Alloc => LeaseAttrs::alloc(public_ip),
            Self::Extension(_) => LeaseAttrs::extension(public_ip, None),
            // Whoever has the key puts it in.
            Self::WireGuard(options) => LeaseAttrs::wireguard(public_ip, None, options.port),
        }
    }

    /// The MAC of the tunnel's end as a lease says it, and zero where it says none.
    ///
    /// # Errors
    /// When the lease is of another backend or carries no usable MAC.
    pub fn vtep_mac(&self, lease: &LeaseAttrs) -> Result<MacAddr, VtepError> {
        match self {
            Self::Vxlan(_) => lease.vxlan_data().map(|data| data.vtep_mac),
            Self::Udp(_) => lease.check_udp().map(|()| MacAddr([0; 6])),
            Self::Ipip(_) => lease.check_ipip().map(|()| MacAddr([0; 6])),
            Self::HostGw | Self::Alloc | Self::Extension(_) | Self::WireGuard(_) => {
                Ok(MacAddr([0; 6]))
            }
        }
    }

    /// MAC of the device of the node that has this lease; zero without a tunnel.
    ///
    /// # Errors
    /// As [`Self::vtep_mac`].
    pub fn device_mac(&self, own: &LeaseAttrs) -> Result<MacAddr, VtepError> {
        match self {
            Self::Udp(_) | Self::Ipip(_) => Ok(tunnel::mac(own.public_ip)),
            _ => self.vtep_mac(own),
        }
    }
}
