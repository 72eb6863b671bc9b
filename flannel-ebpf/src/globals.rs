//! Constants of the node, set by the agent at load; see [`flannel_common::globals`] for their units.

use aya_ebpf::Global;
use flannel_common::globals::{WIRE_IPIP, WIRE_UDP};
use flannel_common::header::Ip;
use flannel_common::udp;
use flannel_common::vxlan::{self, Template};
use flannel_common::{Ipv4, Mac};

macro_rules! globals {
    ($($name:ident: $type:ty = $default:expr;)*) => {
        $(
            #[unsafe(no_mangle)]
            pub(crate) static $name: Global<$type> = Global::new($default);
        )*
    };
}

globals! {
    UPLINK_IFINDEX: u32 = 0;
    UPLINK_IP: u32 = 0;
    PUBLIC_IP: u32 = 0;
    UPLINK_MAC: Mac = [0; 6];
    FLANNEL_IFINDEX: u32 = 0;
    GRO_IFINDEX: u32 = 0;
    OUTER_TEMPLATE: Template = Template([0; 7]);
    VTEP_MAC: Mac = [0; 6];
    WIRE: u8 = 0;
    VNI: u32 = 0;
    VXLAN_PORT: u16 = 0;
    GBP: u8 = 0;
    NETWORK: u32 = 0;
    NETWORK_MASK: u32 = 0;
    PORT_MIN: u16 = 0;
    PORT_MAX: u16 = 0;
    SOURCE_CHECK: u8 = 0;
    SUBNET: u32 = 0;
    SUBNET_MASK: u32 = 0;
    OVERLAY_MTU: u32 = 0;
    PAIR_MTU: u32 = 0;
    BULK_LEN: u32 = u32::MAX;
    ANCHOR: u8 = 0;
    FAST_PATH: u8 = 0;
    POD_HOOK: u8 = 0;
    SHOW_GAP: u32 = 0;
    SNAT_PORT_MIN: u16 = 0;
    SNAT_PORT_MAX: u16 = 0;
    SNAT_MORE_MIN: u16 = 0;
    SNAT_MORE_MAX: u16 = 0;
    SNAT_KEEP: u8 = 0;
    SNAT_BOTH_MIN: u16 = 0;
    SNAT_BOTH_MAX: u16 = 0;
    SNAT_PLACES: u32 = 1;
    SNAT_SECRET: [u64; 2] = [0; 2];
}

/// Whether pods' packets to the outside leave as the node.
#[inline(always)]
pub(crate) fn masquerades() -> bool {
    SNAT_PORT_MAX.load() != 0
}

/// What the tunnel puts in front of a packet, bytes.
#[inline(always)]
pub(crate) fn overhead() -> usize {
    match WIRE.load() {
        WIRE_UDP => udp::Outer::LEN,
        WIRE_IPIP => Ip::LEN,
        _ => vxlan::Outer::LEN,
    }
}

/// Whether the tunnel's packets are IPv4 in IPv4, without a port.
#[inline(always)]
pub(crate) fn is_ipip() -> bool {
    WIRE.load() == WIRE_IPIP
}

/// Whether VXLAN headers carry netfilter's mark.
#[inline(always)]
pub(crate) fn gbp() -> bool {
    GBP.load() != 0
}

/// Our outer address: one load, where four bytes would be four.
#[inline(always)]
pub(crate) fn uplink_ip() -> Ipv4 {
    UPLINK_IP.load().to_ne_bytes()
}

/// Whether peers send to this address: that of the uplink, or our PublicIP.
#[inline(always)]
pub(crate) fn is_vtep(address: Ipv4) -> bool {
    // One load each, where four bytes would be four.
    let address = u32::from_ne_bytes(address);
    address == UPLINK_IP.load() || address == PUBLIC_IP.load()
}
