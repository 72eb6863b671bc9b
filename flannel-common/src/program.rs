//! The programs, numbered as they index the statistics map.

use crate::globals::{WIRE_IPIP, WIRE_UDP, WIRE_VXLAN};

const WIRES: [u8; 3] = [WIRE_VXLAN, WIRE_UDP, WIRE_IPIP];

/// One program of the object. The number is its key in [`crate::maps::STATS`] and is never reused.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Egress of `flannel.<VNI>`: encapsulates what the stack routed to the overlay.
    OverlayTx = 0,
    /// Ingress of `flgro.<VNI>`: the same, for what the first could not take.
    OverlayCatch = 1,
    /// Ingress of the uplink: decapsulates.
    UplinkRx = 2,
    /// Ingress of each port of the pod bridge: verified flows skip the stack here.
    PodTx = 3,
    /// Egress of each port of the pod bridge: what comes out here was let through.
    PodRx = 4,
    /// Ingress of `flannel.<VNI>`: verified bulk flows, merged by GRO, go to the pod from here.
    OverlayRx = 5,
    /// Ingress of the uplink, ahead of [`Self::UplinkRx`], where [`Self::UplinkXdp`] is on.
    XdpRx = 6,
    /// Egress of the uplink and of other devices: pods' packets to the outside leave as the node.
    UplinkTx = 7,
    /// The uplink's driver (XDP, not TC): takes outer headers off before GRO.
    UplinkXdp = 8,
    /// Ingress of the same devices: the replies to [`Self::UplinkTx`] find their pods.
    UplinkSnatRx = 9,
    /// Egress of `flannel.<VNI>`, ahead of [`Self::OverlayTx`]: outsiders reach other nodes' pods as this node.
    OverlaySnatTx = 10,
    /// Ingress of `flannel.<VNI>`: the replies to [`Self::OverlaySnatTx`].
    OverlaySnatRx = 11,
    /// No hook: what [`Self::UplinkTx`] and [`Self::OverlaySnatTx`] hand the first packet of a flow to.
    SnatOpen = 12,
    /// No hook: the same for ICMP errors and fragments that leave.
    SnatOddTx = 13,
    /// No hook: the same for ICMP errors and fragments that arrive.
    SnatOddRx = 14,
    /// Ingress of the uplink: what comes from peers without a tunnel (host-gw, DirectRouting); verified flows go to the pod.
    DirectRx = 15,
    /// Egress of the uplink: what the stack let out to such peers.
    DirectTx = 16,
    /// No hook: what [`Self::UplinkTx`] hands a translated packet to, which the stack let out: that proves its flow.
    OutsideTx = 17,
    /// No hook: the same for replies that [`Self::UplinkSnatRx`] translated; those of verified flows go to the pod.
    OutsideRx = 18,
    /// Egress of the pod bridge: large packets that the stack has let through go to the pod's port whole.
    BridgeRx = 19,
    /// Ingress of the anchor (`--gro=anchor`): what the kernel has decapsulated goes on to `flannel.<VNI>`.
    AnchorRx = 20,
    /// Ingress of devices without Ethernet header (tun, WireGuard, ipip, gre), ahead of all others: puts an empty one in front,
    /// so that those see what they know.
    FrameRx = 21,
    /// [`Self::UplinkTx`] at such a device, on packets as they are.
    UplinkTxIp = 22,
    /// [`Self::SnatOpen`] for [`Self::UplinkTxIp`].
    SnatOpenIp = 23,
    /// [`Self::SnatOddTx`] for [`Self::UplinkTxIp`].
    SnatOddTxIp = 24,
    /// No hook: makes room in the table for a new flow, ahead of [`Self::SnatOpen`], and for connections that come in.
    SnatRoom = 25,
}

impl Program {
    pub const ALL: [Self; 26] = [
        Self::OverlayTx,
        Self::OverlayCatch,
        Self::UplinkRx,
        Self::PodTx,
        Self::PodRx,
        Self::OverlayRx,
        Self::XdpRx,
        Self::UplinkTx,
        Self::UplinkXdp,
        Self::UplinkSnatRx,
        Self::OverlaySnatTx,
        Self::OverlaySnatRx,
        Self::SnatOpen,
        Self::SnatOddTx,
        Self::SnatOddRx,
        Self::DirectRx,
        Self::DirectTx,
        Self::OutsideTx,
        Self::OutsideRx,
        Self::BridgeRx,
        Self::AnchorRx,
        Self::FrameRx,
        Self::UplinkTxIp,
        Self::SnatOpenIp,
        Self::SnatOddTxIp,
        Self::SnatRoom,
    ];
    /// What is reached by tail call only; the place is the key in [`crate::maps::STEPS`].
    pub const STEPS: [Self; 8] = [
        Self::SnatOpen,
        Self::SnatOddTx,
        Self::SnatOddRx,
        Self::OutsideTx,
        Self::OutsideRx,
        Self::SnatOpenIp,
        Self::SnatOddTxIp,
        Self::SnatRoom,
    ];
    /// Slots in the map of steps; more than there are steps, so that one more needs no new layout.
    pub const STEP_SLOTS: usize = 16;
    /// Slots in the statistics map; more than there are programs, so that one more needs no new layout.
    pub const SLOTS: usize = 32;

    /// The key in [`crate::maps::STEPS`]; for the rest a number that no step has.
    pub const fn step(self) -> u32 {
        match self {
            Self::SnatOpen => 0,
            Self::SnatOddTx => 1,
            Self::SnatOddRx => 2,
            Self::OutsideTx => 3,
            Self::OutsideRx => 4,
            Self::SnatOpenIp => 5,
            Self::SnatOddTxIp => 6,
            Self::SnatRoom => 7,
            _ => u32::MAX,
        }
    }

    /// The same program for packets without Ethernet header, if there is one.
    #[must_use]
    pub const fn without_frame(self) -> Self {
        match self {
            Self::UplinkTx => Self::UplinkTxIp,
            Self::SnatOpen => Self::SnatOpenIp,
            Self::SnatOddTx => Self::SnatOddTxIp,
            other => other,
        }
    }

    /// The same program for frames.
    #[must_use]
    pub const fn with_frame(self) -> Self {
        match self {
            Self::UplinkTxIp => Self::UplinkTx,
            Self::SnatOpenIp => Self::SnatOpen,
            Self::SnatOddTxIp => Self::SnatOddTx,
            other => other,
        }
    }

    /// Whether its hook is the driver and not TC.
    pub const fn is_xdp(self) -> bool {
        matches!(self, Self::UplinkXdp)
    }

    /// Symbol in the object and name in `bpftool prog`, for a tunnel whose packets look like this (a value of
    /// [`crate::globals::WIRE`]). The backends udp and ipip have some programs of their own; all else calls them by [`Self::name`].
    pub const fn symbol(self, wire: u8) -> &'static str {
        match (wire, self) {
            (WIRE_UDP, Self::OverlayTx) => "overlay_tx_udp",
            (WIRE_UDP, Self::OverlayCatch) => "catch_udp",
            (WIRE_UDP, Self::UplinkRx) => "uplink_rx_udp",
            (WIRE_UDP, Self::PodTx) => "pod_tx_udp",
            (WIRE_IPIP, Self::OverlayTx) => "overlay_tx_ipip",
            (WIRE_IPIP, Self::OverlayCatch) => "catch_ipip",
            (WIRE_IPIP, Self::UplinkRx) => "uplink_rx_ipip",
            (WIRE_IPIP, Self::PodTx) => "pod_tx_ipip",
            _ => self.name(),
        }
    }

    /// The one with this symbol.
    pub fn of_symbol(symbol: &str) -> Option<Self> {
        let has = |program: &Self| WIRES.iter().any(|wire| program.symbol(*wire) == symbol);
        Self::ALL.into_iter().find(has)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::OverlayTx => "overlay_tx",
            Self::OverlayCatch => "overlay_catch",
            Self::UplinkRx => "uplink_rx",
            Self::PodTx => "pod_tx",
            Self::PodRx => "pod_rx",
            Self::OverlayRx => "overlay_rx",
            Self::XdpRx => "xdp_rx",
            Self::UplinkTx => "uplink_tx",
            Self::UplinkXdp => "uplink_xdp",
            Self::UplinkSnatRx => "uplink_snat_rx",
            Self::OverlaySnatTx => "overlay_snat_tx",
            Self::OverlaySnatRx => "overlay_snat_rx",
            Self::SnatOpen => "snat_open",
            Self::SnatOddTx => "snat_odd_tx",
            Self::SnatOddRx => "snat_odd_rx",
            Self::DirectRx => "direct_rx",
            Self::DirectTx => "direct_tx",
            Self::OutsideTx => "outside_tx",
            Self::OutsideRx => "outside_rx",
            Self::BridgeRx => "bridge_rx",
            Self::AnchorRx => "anchor_rx",
            Self::FrameRx => "frame_rx",
            Self::UplinkTxIp => "uplink_tx_ip",
            Self::SnatOpenIp => "snat_open_ip",
            Self::SnatOddTxIp => "snat_odd_tx_ip",
            Self::SnatRoom => "snat_room",
        }
    }
}
