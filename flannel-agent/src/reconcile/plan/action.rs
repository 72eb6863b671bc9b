//! The closed list of what can be done: what, never how.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use flannel_common::globals::{WIRE_IPIP, WIRE_UDP};
use flannel_common::snat::Times;
use ipnet::Ipv4Net;
use serde::Serialize;

use super::{RouteChanges, SealedChanges};
use crate::base::mac::MacAddr;
use crate::dataplane::outlets::Sources;
use crate::dataplane::{Attachment, Globals, PeerChanges, Stale};
use crate::node::conntrack::{self, Brief};
use crate::node::node_sysctls::Wish;
use crate::reconcile::desired::{Anchor, Node, Pair, WireGuard};

/// One step. Each is idempotent, and names devices because indexes change under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Renames a kernel vxlan device so that it forwards on beside its successor; where the kernel
    /// renames only devices that are down (before 6.2), deletes it.
    SetAside {
        device: String,
        to: String,
    },
    /// Takes all routes and addresses off a device, so that no packet goes to it while it is deleted.
    Retire {
        device: String,
    },
    DeleteDevice {
        device: String,
    },
    CreatePair(Pair),
    CreateWireGuard(WireGuard),
    /// Tells the WireGuard device its key, its port and its peers.
    ConfigureWireGuard(SealedChanges),
    /// Makes the device that stands for the VXLAN port, or what is missing of it. It stays down.
    CreateAnchor(Anchor),
    SetAlias {
        device: String,
        alias: String,
    },
    SetMac {
        device: String,
        mac: MacAddr,
    },
    SetMtu {
        device: String,
        mtu: u32,
    },
    /// The longest IPv4 packet to be cut into segments, bytes.
    SetGsoMax {
        device: String,
        max: u32,
    },
    SetSysctl {
        key: String,
        value: String,
    },
    /// Sets a sysctl of the whole node, and remembers what it was.
    ClaimSysctl {
        key: String,
        wish: Wish,
    },
    /// Gives such a sysctl back.
    ReleaseSysctl {
        key: String,
    },
    SetFeatures {
        device: String,
        features: BTreeMap<String, bool>,
    },
    /// Opens or creates the maps and loads the programs, which run nowhere yet.
    Load {
        globals: Globals,
    },
    UpdatePeers(PeerChanges),
    /// Makes the loaded steps of source NAT those that its programs jump to.
    SetSteps,
    /// Writes and removes destinations that are exempt from source NAT.
    UpdateExempt {
        put: BTreeSet<Ipv4Net>,
        remove: BTreeSet<Ipv4Net>,
    },
    /// Tells for how long translated flows live.
    SetTimes(#[serde(serialize_with = "conntrack::serialize")] Times),
    /// Writes and removes devices, by ifindex, and the addresses that packets leave with there.
    UpdateOutlets {
        put: BTreeMap<u32, Sources>,
        remove: BTreeSet<u32>,
    },
    /// Ends the proof of every flow: what it was made from has changed.
    BumpEpoch,
    SetUp {
        device: String,
    },
    /// Puts the loaded program on the hook, in one step with taking an earlier one off.
    Attach(Attachment),
    AddAddress {
        device: String,
        address: Ipv4Net,
    },
    RemoveAddress {
        device: String,
        address: Ipv4Net,
    },
    /// Removes and makes routes to peers. What the kernel refuses is named, and no reason to stop.
    UpdateRoutes(RouteChanges),
    Detach(Stale),
    /// Lets go of the steps that nobody jumps to any more.
    ClearSteps,
    /// Copies the translated connections of an earlier layout version, but for those that are here already.
    CarryNat {
        folder: String,
    },
    /// Removes the maps that programs of an earlier configuration had.
    RemoveMaps,
    /// Removes the maps of another layout version.
    RemoveLayout {
        folder: String,
    },
}

impl Action {
    /// One word for metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::SetAside { .. } => "set_aside",
            Self::DeleteDevice { .. } => "delete_device",
            Self::CreatePair(_) => "create_pair",
            Self::CreateWireGuard(_) => "create_wireguard",
            Self::ConfigureWireGuard(_) => "configure_wireguard",
            Self::CreateAnchor(_) => "create_anchor",
            Self::SetAlias { .. } => "set_alias",
            Self::SetMac { .. } => "set_mac",
            Self::SetMtu { .. } => "set_mtu",
            Self::SetGsoMax { .. } => "set_gso_max",
            Self::SetSysctl { .. } => "set_sysctl",
            Self::SetFeatures { .. } => "set_features",
            Self::ClaimSysctl { .. } => "claim_sysctl",
            Self::ReleaseSysctl { .. } => "release_sysctl",
            Self::Load { .. } => "load",
            Self::UpdatePeers(_) => "update_peers",
            Self::SetSteps => "set_steps",
            Self::UpdateExempt { .. } => "update_exempt",
            Self::SetTimes(_) => "set_times",
            Self::UpdateOutlets { .. } => "update_outlets",
            Self::ClearSteps => "clear_steps",
            Self::SetUp { .. } => "set_up",
            Self::Attach(_) => "attach",
            Self::AddAddress { .. } => "add_address",
            Self::RemoveAddress { .. } => "remove_address",
            Self::UpdateRoutes(changes) if changes.set.is_empty() => "remove_routes",
            Self::UpdateRoutes(_) => "set_routes",
            Self::Detach(_) => "detach",
            Self::CarryNat { .. } => "carry_nat",
            Self::RemoveMaps => "remove_maps",
            Self::RemoveLayout { .. } => "remove_layout",
            Self::BumpEpoch => "bump_epoch",
            Self::Retire { .. } => "retire",
        }
    }

    /// Whether what comes after it makes no sense without it. What fails and is not essential is said once.
    #[must_use]
    pub fn is_essential(&self, node: &Node) -> bool {
        if let Self::Attach(attachment) = self {
            return !node.can_spare(attachment);
        }
        !matches!(
            self,
            Self::SetSysctl { .. }
                | Self::ClaimSysctl { .. }
                | Self::ReleaseSysctl { .. }
                | Self::SetFeatures { .. }
                | Self::Detach(_)
                | Self::ClearSteps
                | Self::CarryNat { .. }
                | Self::RemoveMaps
                | Self::RemoveLayout { .. }
                | Self::RemoveAddress { .. }
                | Self::UpdateRoutes(_)
        )
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetAside { device, to } => {
                write!(f, "put the kernel device {device} aside as {to}")
            }
            Self::Retire { device } => write!(f, "take routes and addresses off {device}"),
            Self::DeleteDevice { device } => write!(f, "delete {device}"),
            Self::CreatePair(pair) => write!(
                f,
                "create {} ({}, MTU {}) with its far end {}",
                pair.name, pair.mac, pair.mtu, pair.gro_name
            ),
            Self::CreateWireGuard(device) => {
                write!(f, "create {} (WireGuard, MTU {})", device.name, device.mtu)
            }
            Self::ConfigureWireGuard(changes) => changes.fmt(f),
            Self::CreateAnchor(anchor) => write!(
                f,
                "create {}, which makes GRO know UDP port {}",
                anchor.name, anchor.port
            ),
            Self::SetAlias { device, alias } => write!(f, "set the alias of {device} to {alias}"),
            Self::SetMac { device, mac } => write!(f, "set the MAC of {device} to {mac}"),
            Self::SetMtu { device, mtu } => write!(f, "set the MTU of {device} to {mtu}"),
            Self::SetGsoMax { device, max } => {
                write!(f, "set gso_ipv4_max_size of {device} to {max}")
            }
            Self::SetSysctl { key, value } => write!(f, "set the sysctl {key} to {value}"),
            Self::ClaimSysctl { key, wish } => write!(f, "set the node's sysctl {key} to {wish}"),
            Self::ReleaseSysctl { key } => write!(f, "give the node's sysctl {key} back"),
            Self::SetFeatures { device, features } => {
                write!(f, "switch offloads of {device}:")?;
                for (name, on) in features {
                    write!(f, " {name} {}", if *on { "on" } else { "off" })?;
                }
                Ok(())
            }
            Self::Load { globals } if globals.wire == WIRE_UDP => write!(
                f,
                "load the programs for the backend udp, port {} at {}",
                globals.port, globals.uplink_ip
            ),
            Self::Load { globals } if globals.wire == WIRE_IPIP => {
                write!(
                    f,
                    "load the programs for the backend ipip at {}",
                    globals.uplink_ip
                )
            }
            Self::Load { globals } if globals.vni == 0 => {
                write!(f, "load the programs at {}", globals.uplink_ip)
            }
            Self::Load { globals } => write!(
                f,
                "load the programs for VNI {} port {} at {}",
                globals.vni, globals.port, globals.uplink_ip
            ),
            Self::UpdatePeers(changes) => changes.fmt(f),
            Self::SetSteps => f.write_str("set the steps of source NAT"),
            Self::UpdateExempt { put, remove } => {
                f.write_str("update the destinations exempt from source NAT:")?;
                for net in put {
                    write!(f, " {net}")?;
                }
                for net in remove {
                    write!(f, " not {net}")?;
                }
                Ok(())
            }
            Self::SetTimes(times) => {
                write!(f, "set the time-outs of source NAT: {}", Brief(times))
            }
            Self::UpdateOutlets { put, remove } => {
                f.write_str("update the addresses that pods leave with:")?;
                for (index, sources) in put {
                    write!(f, " {sources} by interface #{index}")?;
                }
                for index in remove {
                    write!(f, " none by #{index}")?;
                }
                Ok(())
            }
            Self::ClearSteps => f.write_str("clear the steps of source NAT"),
            Self::BumpEpoch => f.write_str("end the proofs of all flows"),
            Self::SetUp { device } => write!(f, "set {device} up"),
            Self::Attach(attachment) => write!(f, "attach {attachment}"),
            Self::AddAddress { device, address } => write!(f, "add {address} to {device}"),
            Self::RemoveAddress { device, address } => write!(f, "remove {address} from {device}"),
            Self::UpdateRoutes(changes) => changes.fmt(f),
            Self::Detach(Stale::Pin(pin)) => write!(f, "detach {pin}"),
            Self::Detach(Stale::Filter {
                device,
                direction,
                handle,
            }) => write!(
                f,
                "detach the filter {handle:#x} at {direction} of {device}"
            ),
            Self::CarryNat { folder } => {
                write!(f, "carry translated connections over from layout {folder}")
            }
            Self::RemoveMaps => f.write_str("remove the maps, which no program needs any more"),
            Self::RemoveLayout { folder } => write!(f, "remove the maps of layout {folder}"),
        }
    }
}
