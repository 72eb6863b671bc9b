//! Tunnel packets that pods make themselves. A node that translates pods would send them in its own name, and its peers would
//! believe what is in them.

use flannel_common::Ipv4;
use flannel_common::header::{PROTO_UDP, VERSION_IHL};
use flannel_common::reason::Reason;

use crate::globals::{self, VXLAN_PORT};
use crate::headers::Packet;
use crate::maps::VTEPS;

/// A packet of a pod that is not for the overlay. What has options takes the stack, and meets `snat_open` where it would leave
/// in the node's name.
#[inline(always)]
pub(crate) fn check(packet: &Packet) -> Result<(), Reason> {
    let ip = &packet.ip;
    // What follows a first fragment is nothing without it.
    if ip.proto != PROTO_UDP || ip.version_ihl != VERSION_IHL || ip.fragment_offset() != 0 {
        return Ok(());
    }
    check_port(ip.dst, [packet.l4[2], packet.l4[3]])
}

/// The same of UDP, where the port is known.
#[inline(always)]
pub(crate) fn check_port(dst: Ipv4, port: [u8; 2]) -> Result<(), Reason> {
    match is_tunnel(u32::from_ne_bytes(dst), u16::from_be_bytes(port)) {
        0 => Ok(()),
        _ => Err(Reason::PodTunnel),
    }
}

/// Whether peers, or we, take tunnel packets at this address and port. A global function, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn is_tunnel(address: u32, port: u16) -> u8 {
    let vxlan = VXLAN_PORT.load();
    let address = address.to_ne_bytes();
    let is_node = || globals::is_vtep(address) || VTEPS.get_ptr(address).is_some();
    u8::from(vxlan != 0 && port == vxlan && is_node())
}
