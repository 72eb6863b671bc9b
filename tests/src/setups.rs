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
    /// Real flanneld.
    Flanneld,
    FlanneldHostGw,
}

impl Setup {
    pub fn kind(self) -> Kind {
        match self {
            Self::Flanneld | Self::FlanneldHostGw => Kind::Flanneld,
            _ => Kind::Ours,
        }
    }

    fn net(self) -> Network {
        let vxlan = || Network::vxlan("/coreos.com/network", "10.244.0.0/16");
        match self {
            Self::Vxlan | Self::VxlanAtBridge | Self::VxlanAlways | Self::Flanneld => vxlan(),
            Self::DirectRouting | Self::DirectRoutingAtBridge => vxlan().direct_routing(),
            Self::HostGw | Self::HostGwAtBridge | Self::FlanneldHostGw => {
                Network::host_gw("/coreos.com/network", "10.244.0.0/16")
            }
        }
    }

    /// Flags of ours.
    pub fn flags(self) -> &'static [&'static str] {
        match self {
            Self::VxlanAtBridge | Self::DirectRoutingAtBridge | Self::HostGwAtBridge => {
                &["--pod-hook=bridge"]
            }
            Self::VxlanAlways => &["--fast-path=always"],
            _ => &[],
        }
    }

    /// On whose ports the programs sit, if they are ours.
    #[track_caller]
    pub fn pair(self) -> Pair<AnyDaemon> {
        pair_of(self.kind(), self.net(), Options::default(), self.flags())
    }
}
