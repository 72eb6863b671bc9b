//! What the kernel holds, as far as this node's wanted state is concerned.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use flannel_common::program::Program;
use ipnet::Ipv4Net;
use serde::{Serialize, Serializer};

use crate::desired::{Attachment, Globals, Peer, Sources};
use crate::mac::MacAddr;
use crate::net::Route;
use crate::node_sysctls::Difference;

/// A snapshot, made by [`crate::observe`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Actual {
    pub device: Device,
    pub anchor: Anchors,
    /// A kernel vxlan device put aside earlier and not deleted yet.
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
    KernelVxlan {
        mac: Option<MacAddr>,
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
    /// Up, and with ARP off.
    pub up: bool,
    pub gro_up: bool,
    pub wrong_sysctls: BTreeMap<String, String>,
    pub wrong_features: BTreeMap<String, BTreeMap<String, bool>>,
    /// Addresses of `flannel.<VNI>`.
    pub addresses: BTreeSet<Ipv4Net>,
}

/// Programs: those of this process, and what is attached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Programs {
    /// Loaded by this process; `None` right after the start.
    pub loaded: Option<Loaded>,
    /// Wanted hooks where a program of ours is live, and whether it is this process's.
    pub attached: BTreeMap<Attachment, Generation>,
    /// Steps of source NAT that can be jumped to.
    #[serde(serialize_with = "by_name")]
    pub steps: BTreeMap<Program, Generation>,
    /// Ours, attached where nothing of ours belongs (any more).
    pub stale: BTreeSet<Stale>,
    /// The uplink's driver was asked for XDP, as it is now, and refused.
    pub xdp_refused: bool,
    /// Pin folders of other layout versions, and whether their translated connections mean here what they mean there.
    pub old_layouts: BTreeMap<String, bool>,
}

fn by_name<S: Serializer>(
    steps: &BTreeMap<Program, Generation>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(steps.iter().map(|(step, is)| (step.name(), is)))
}

/// What the loaded programs were told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loaded {
    pub globals: Globals,
    pub index: u32,
    pub gro_index: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Generation {
    /// Loaded by this process.
    Current,
    /// Left by an earlier agent, or from before the constants changed.
    Earlier,
    /// Behind somebody else's program that may end the hook's chain before it.
    Hidden,
}

/// An attachment to remove.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Stale {
    /// File name of a pinned link.
    Pin(String),
    /// A clsact filter of ours.
    Filter {
        device: String,
        direction: crate::net::Direction,
        handle: u32,
    },
}

/// The peers as the maps hold them; `None` for an entry this version does not understand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PeerMaps {
    pub table: BTreeMap<Ipv4Net, Option<Peer>>,
    pub vteps: BTreeMap<Ipv4Addr, u32>,
    pub macs: BTreeMap<MacAddr, u32>,
}
