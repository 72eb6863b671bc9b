//! What a tunnel is, whatever its packets look like.

use flannel_common::globals::{WIRE_UDP, WIRE_VXLAN};
use flannel_common::udp;
use serde::Serialize;

use super::vxlan;

/// What the packets between nodes look like, and which of several such tunnels it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    Vxlan { vni: u32 },
    Udp,
}

/// The tunnel between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    pub wire: Wire,
    /// UDP port on which its packets come.
    pub port: u16,
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
            _ => None,
        }
    }

    #[must_use]
    pub const fn value(self) -> u8 {
        match self {
            Self::Vxlan { .. } => WIRE_VXLAN,
            Self::Udp => WIRE_UDP,
        }
    }

    #[must_use]
    pub const fn vni(self) -> Option<u32> {
        match self {
            Self::Vxlan { vni } => Some(vni),
            Self::Udp => None,
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
        }
    }
}
