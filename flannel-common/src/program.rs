//! The programs, numbered as they index the statistics map.

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
    /// The uplink's driver (XDP, not TC): takes outer headers off before GRO.
    UplinkXdp = 8,
}

impl Program {
    pub const ALL: [Self; 8] = [
        Self::OverlayTx,
        Self::OverlayCatch,
        Self::UplinkRx,
        Self::PodTx,
        Self::PodRx,
        Self::OverlayRx,
        Self::XdpRx,
        Self::UplinkXdp,
    ];
    /// Slots in the statistics map; more than there are programs, so that one more needs no new layout.
    pub const SLOTS: usize = 16;

    /// Symbol in the object and name in `bpftool prog`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OverlayTx => "overlay_tx",
            Self::OverlayCatch => "overlay_catch",
            Self::UplinkRx => "uplink_rx",
            Self::PodTx => "pod_tx",
            Self::PodRx => "pod_rx",
            Self::OverlayRx => "overlay_rx",
            Self::XdpRx => "xdp_rx",
            Self::UplinkXdp => "uplink_xdp",
        }
    }
}
