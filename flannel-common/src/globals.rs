//! Constants of a node, written into the object's `.rodata` at load.
//!
//! The kernel freezes `.rodata`, so the verifier knows the values and no packet pays for a look-up.
//! A change (new uplink address, say) loads the programs anew and swaps them under the live links.

/// ifindex of the uplink (`u32`).
pub const UPLINK_IFINDEX: &str = "UPLINK_IFINDEX";
/// Our outer address ([`crate::Ipv4`]).
pub const UPLINK_IP: &str = "UPLINK_IP";
/// Where peers send to: our PublicIP, which may be another address of this node ([`crate::Ipv4`]).
pub const PUBLIC_IP: &str = "PUBLIC_IP";
/// MAC of the uplink; only `uplink_xdp` reads it ([`crate::Mac`]).
pub const UPLINK_MAC: &str = "UPLINK_MAC";
/// ifindex of `flannel.<VNI>` (`u32`).
pub const FLANNEL_IFINDEX: &str = "FLANNEL_IFINDEX";
/// ifindex of `flgro.<VNI>` (`u32`).
pub const GRO_IFINDEX: &str = "GRO_IFINDEX";
/// Outer headers of this node ([`crate::vxlan::Template`]; with [`WIRE_UDP`] as [`crate::udp::template`] makes it, with [`WIRE_IPIP`] as
/// [`crate::ipip::template`] does).
pub const OUTER_TEMPLATE: &str = "OUTER_TEMPLATE";
/// MAC of `flannel.<VNI>`, published in our lease ([`crate::Mac`]).
pub const VTEP_MAC: &str = "VTEP_MAC";
/// VXLAN network identifier, 24 bits (`u32`).
pub const VNI: &str = "VNI";
/// How packets look on the wire: a value of [`WIRE_VXLAN`] and its like (`u8`).
pub const WIRE: &str = "WIRE";
/// The tunnel's UDP port, host order; 0: it has none (`u16`).
pub const VXLAN_PORT: &str = "VXLAN_PORT";
/// Whether VXLAN headers carry netfilter's mark, see [`crate::gbp`]: 0 or 1 (`u8`).
pub const GBP: &str = "GBP";
/// The cluster's Network, host order, and its mask (`u32` each).
pub const NETWORK: &str = "NETWORK";
pub const NETWORK_MASK: &str = "NETWORK_MASK";
/// This node's subnet, host order, and its mask (`u32` each).
pub const SUBNET: &str = "SUBNET";
pub const SUBNET_MASK: &str = "SUBNET_MASK";
/// `net.ipv4.ip_local_port_range`: bounds for the outer source port (`u16` each).
pub const PORT_MIN: &str = "PORT_MIN";
pub const PORT_MAX: &str = "PORT_MAX";
/// Whose packets are taken: a value of [`crate::source::CHECK_LEASE`] and its like (`u8`).
pub const SOURCE_CHECK: &str = "SOURCE_CHECK";
/// MTU of the overlay, without Ethernet header (`u32`).
pub const OVERLAY_MTU: &str = "OVERLAY_MTU";
/// Longest inner packet that crosses the pair to be merged by GRO, bytes; 0: none does (`u32`).
pub const PAIR_MTU: &str = "PAIR_MTU";
/// Length of an inner TCP packet, bytes, from which on its flow is bulk and takes the pair; `u32::MAX`: none is (`u32`).
pub const BULK_LEN: &str = "BULK_LEN";
/// What is left to the kernel's decapsulation, since the anchor hands it to us: a value of [`ANCHOR_NONE`] and its like (`u8`).
pub const ANCHOR: &str = "ANCHOR";
/// How the fast path works: 0 off, 1 verified, 2 always (`u8`).
pub const FAST_PATH: &str = "FAST_PATH";
/// Where `pod_tx` and `pod_rx` sit: 0 on the ports of the bridge, 1 on the bridge itself (`u8`).
pub const POD_HOOK: &str = "POD_HOOK";
/// After how many ticks the bridge is shown the next packet of a pod's port; 0: never (`u32`).
pub const SHOW_GAP: &str = "SHOW_GAP";
/// The same where pods' packets go past the bridge: a tenth of a second.
pub const SHOW_EACH: u32 = crate::tick::ticks(100);

/// `--snat-ports`: bounds for translated source ports (`u16` each).
pub const SNAT_PORT_MIN: &str = "SNAT_PORT_MIN";
pub const SNAT_PORT_MAX: &str = "SNAT_PORT_MAX";
/// The same of those that are tried when none of these is free; 0: there are none (`u16` each).
pub const SNAT_MORE_MIN: &str = "SNAT_MORE_MIN";
pub const SNAT_MORE_MAX: &str = "SNAT_MORE_MAX";
/// Those of [`SNAT_PORT_MIN`], or all where flows keep theirs: what the node itself sends under them is noted (`u16` each).
pub const SNAT_BOTH_MIN: &str = "SNAT_BOTH_MIN";
pub const SNAT_BOTH_MAX: &str = "SNAT_BOTH_MAX";
/// 1: a flow keeps its own port where that is free (`u8`).
pub const SNAT_KEEP: &str = "SNAT_KEEP";
/// Entries of [`crate::maps::YOUNG`] (`u32`).
pub const SNAT_PLACES: &str = "SNAT_PLACES";

/// Drawn anew for each load: under which port a flow leaves, nobody can tell without it, see [`crate::chance`] (`[u64; 2]`).
pub const SNAT_SECRET: &str = "SNAT_SECRET";

/// Values of [`WIRE`].
pub const WIRE_VXLAN: u8 = 0;
pub const WIRE_UDP: u8 = 1;
pub const WIRE_IPIP: u8 = 2;
/// Values of [`FAST_PATH`].
pub const FAST_PATH_OFF: u8 = 0;
pub const FAST_PATH_VERIFIED: u8 = 1;
pub const FAST_PATH_ALWAYS: u8 = 2;
/// Values of [`ANCHOR`]: there is no anchor; TCP that is for no pod of this node; TCP that the stack is to see.
pub const ANCHOR_NONE: u8 = 0;
pub const ANCHOR_FORWARDED: u8 = 1;
pub const ANCHOR_STACK: u8 = 2;
/// Values of [`POD_HOOK`].
pub const POD_HOOK_PORT: u8 = 0;
pub const POD_HOOK_BRIDGE: u8 = 1;
