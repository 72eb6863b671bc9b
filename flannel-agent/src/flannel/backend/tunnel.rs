//! What a tunnel is, whatever its packets look like.

use std::net::Ipv4Addr;

use flannel_common::globals::{WIRE_IPIP, WIRE_UDP, WIRE_VXLAN};
use flannel_common::header::{PROTO_IPIP, PROTO_UDP};
use flannel_common::{ipip, udp};
use serde::Serialize;

use super::vxlan;
use crate::base::mac::MacAddr;

/// What the packets between nodes look like, and which of several such tunnels it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    Vxlan { vni: u32 },
    Udp,
    Ipip,
}

/// The tunnel between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    pub wire: Wire,
    /// UDP port on which its packets come, if they have one.
    pub port: Option<u16>,
    /// Its headers carry netfilter's mark.
    pub gbp: bool,
}

impl Wire {
    /// By a value of [`flannel_common::globals::WIRE`]. `None`: of another build.
    #[must_use]
    pub const fn of_value(value: u8, vni: u32) -> Option<Self> {
        match value {
            WIRE_VXLAN => Some(Self::Vxlan { vni }),
            WIRE_UDP => Some(Self::Udp),
            WIRE_IPIP => Some(Self::Ipip),
            _ => None,
        }
    }

    #[must_use]
    pub const fn value(self) -> u8 {
        match self {
            Self::Vxlan { .. } => WIRE_VXLAN,
            Self::Udp => WIRE_UDP,
            Self::Ipip => WIRE_IPIP,
        }
    }

    #[must_use]
    pub const fn vni(self) -> Option<u32> {
        match self {
            Self::Vxlan { vni } => Some(vni),
            Self::Udp | Self::Ipip => None,
        }
    }

    /// What it puts around a packet, bytes.
    #[must_use]
    pub const fn overhead(self) -> u32 {
        /// Outer IPv4 and UDP headers.
        const UDP: u32 = 28;
        const { assert!(UDP as usize == udp::Outer::LEN) };
        match self {
            Self::Vxlan { .. } => vxlan::TUNNEL_OVERHEAD,
            Self::Udp => UDP,
            Self::Ipip => ipip::OVERHEAD as u32,
        }
    }

    /// IP protocol of its packets.
    #[must_use]
    pub const fn proto(self) -> u8 {
        match self {
            Self::Vxlan { .. } | Self::Udp => PROTO_UDP,
            Self::Ipip => PROTO_IPIP,
        }
    }

    /// The backend's name.
    #[must_use]
    pub const fn backend(self) -> &'static str {
        match self {
            Self::Vxlan { .. } => vxlan::NAME,
            Self::Udp => super::udp::NAME,
            Self::Ipip => super::ipip::NAME,
        }
    }
}

/// MAC of this node's device where the lease has none, which nobody else is told: the same after each start.
pub(super) fn mac(public_ip: Ipv4Addr) -> MacAddr {
    /// Locally administered (IEEE 802 §8.2), and no group.
    const LOCAL: u8 = 0x02;
    let [a, b, c, d] = public_ip.octets();
    MacAddr([LOCAL, 0, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_s_mac_is_a_device_s() {
        let of = |last| mac(Ipv4Addr::new(1, 2, 3, last));
        assert!(of(4).is_unicast());
        assert_ne!(of(4), of(5));
    }

    #[test]
    fn a_wire_is_known_by_its_value() {
        for wire in [Wire::Vxlan { vni: 7 }, Wire::Udp, Wire::Ipip] {
            assert_eq!(Wire::of_value(wire.value(), 7), Some(wire));
        }
        assert_eq!(Wire::of_value(9, 7), None);
    }
}
