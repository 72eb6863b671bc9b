//! What the kernel holds, as far as this node's wanted state is concerned.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use flannel_common::snat::Times;
use ipnet::{IpNet, Ipv4Net};
use serde::Serialize;

use crate::base::key::{Psk, PublicKey};
use crate::base::mac::MacAddr;
use crate::dataplane::outlets::Sources;
use crate::dataplane::{PeerMaps, Programs};
use crate::node::net::Route;
use crate::node::node_sysctls::Difference;

/// A snapshot, made by [`crate::reconcile::observe`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Actual {
    pub device: Device,
    pub wireguard: WireGuardDevice,
    pub anchor: Anchors,
    /// A kernel device put aside earlier and not deleted yet.
    pub aside: bool,
    /// Our devices of an earlier configuration: another VNI, or a tunnel where there is none now.
    pub former: BTreeSet<String>,
    pub programs: Programs,
    pub peers: PeerMaps,
    /// Of the main table: those with our mark, and all into the Network.
    #[serde(skip)]
    pub routes: Vec<Route>,
    /// Destinations exempt from source NAT, as the map holds them.
    pub exempt: BTreeSet<Ipv4Net>,
    /// How long translated flows live, as the map holds it; `None`: there is no map.
    #[serde(skip)]
    pub snat_times: Option<Times>,
    /// Addresses that flows leave as, as the maps hold them, by ifindex.
    pub outlets: BTreeMap<u32, Sources>,
    /// What is left to do about the sysctls of the whole node.
    pub shared_sysctls: Difference,
}

/// Devices that make the kernel know a VXLAN port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Anchors {
    /// The wanted one.
    pub wanted: Option<AnchorState>,
    /// Others that no network but this one has a program at.
    pub needless: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AnchorState {
    /// With our mark, and without IPv6.
    pub is_whole: bool,
    pub up: bool,
    /// The device that it goes with.
    pub lower: Option<String>,
}

/// What is found under the names of our pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Device {
    Absent,
    Ours(PairState),
    /// Ours by its mark, but of no use: an end is missing or was moved away.
    Broken {
        /// The device to delete.
        device: String,
    },
    /// flanneld's device; `mac` is what peers send to.
    KernelTunnel {
        mac: Option<MacAddr>,
        /// Somebody has set it up: without, it carries nothing.
        up: bool,
    },
    /// Somebody else's: never touched.
    Foreign {
        why: String,
    },
}

/// The pair as it is. Wanted settings that do not hold are listed; those the kernel does not know are not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PairState {
    pub index: u32,
    pub gro_index: u32,
    /// Both ends carry our alias.
    pub aliased: bool,
    pub mac: Option<MacAddr>,
    pub mtu: u32,
    pub gro_mtu: u32,
    /// [`Link::gso_max`](crate::node::net::Link::gso_max) of `flannel.<VNI>`.
    pub gso_max: Option<u32>,
    /// Up, and with ARP off.
    pub up: bool,
    pub gro_up: bool,
    pub wrong_sysctls: BTreeMap<String, String>,
    pub wrong_features: BTreeMap<String, BTreeMap<String, bool>>,
    /// Addresses of `flannel.<VNI>`.
    pub addresses: BTreeSet<Ipv4Net>,
}

/// What is found under the name of the WireGuard device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub enum WireGuardDevice {
    #[default]
    Absent,
    /// Ours, or flanneld's, which is as good.
    There(WireGuardState),
    /// Somebody else's: never touched.
    Foreign { why: String },
}

/// The device as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WireGuardState {
    pub index: u32,
    pub aliased: bool,
    pub mtu: u32,
    pub up: bool,
    pub addresses: BTreeSet<Ipv4Net>,
    pub public_key: Option<PublicKey>,
    pub port: u16,
    pub peers: BTreeMap<PublicKey, SealedState>,
}

/// A peer that it knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SealedState {
    /// Where this process has told the device to look for it; else where the device does.
    pub endpoint: Option<SocketAddr>,
    /// Whether it proved there to be itself, not long ago.
    pub heard: bool,
    pub allowed: BTreeSet<IpNet>,
    #[serde(skip)]
    pub psk: Psk,
    pub keepalive: u16,
}
