//! The set-ups in which one text is tried: ours in each of its ways, and the control.

use crate::fast_path::pair_of;
use crate::lab::Options;
use crate::network::Network;
use crate::pair::{Kind, Pair};
use crate::with_daemon::AnyDaemon;

/// Two nodes whose pods talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    Vxlan,
    VxlanAtBridge,
    VxlanAlways,
    DirectRouting,
    DirectRoutingAtBridge,
    HostGw,
    HostGwAtBridge,
    Udp,
    UdpAtBridge,
    UdpAlways,
    /// Real flanneld.
    Flanneld,
    FlanneldHostGw,
    FlanneldUdp,
}

impl Setup {
    pub fn kind(self) -> Kind {
        match self {
            Self::Flanneld | Self::FlanneldHostGw | Self::FlanneldUdp => Kind::Flanneld,
            _ => Kind::Ours,
        }
    }

    pub fn net(self) -> Network {
        let vxlan = || Network::vxlan("/coreos.com/network", "10.244.0.0/16");
        match self {
            Self::Vxlan | Self::VxlanAtBridge | Self::VxlanAlways | Self::Flanneld => vxlan(),
            Self::DirectRouting | Self::DirectRoutingAtBridge => vxlan().direct_routing(),
            Self::HostGw | Self::HostGwAtBridge | Self::FlanneldHostGw => {
                Network::host_gw("/coreos.com/network", "10.244.0.0/16")
            }
            Self::Udp | Self::UdpAtBridge | Self::UdpAlways | Self::FlanneldUdp => {
                Network::udp("/coreos.com/network", "10.244.0.0/16")
            }
        }
    }

    /// Flags of ours.
    pub fn flags(self) -> &'static [&'static str] {
        match self {
            Self::VxlanAtBridge
            | Self::DirectRoutingAtBridge
            | Self::HostGwAtBridge
            | Self::UdpAtBridge => &["--pod-hook=bridge"],
            Self::VxlanAlways | Self::UdpAlways => &["--fast-path=always"],
            _ => &[],
        }
    }

    /// On whose ports the programs sit, if they are ours.
    #[track_caller]
    pub fn pair(self) -> Pair<AnyDaemon> {
        pair_of(self.kind(), self.net(), Options::default(), self.flags())
    }
}
