//! Encapsulation: room, outer headers, redirect to the uplink.

use flannel_common::header::Eth;
use flannel_common::maps::Peer;
use flannel_common::reason::Reason;
use flannel_common::source_port;
use flannel_common::vxlan::{self, Encap};

use crate::globals::{PORT_MAX, PORT_MIN, UPLINK_IFINDEX, UPLINK_IP, VNI, VTEP_MAC, VXLAN_PORT};
use crate::skb::{self, Skb};
use crate::verdict::Verdict;

/// Encapsulates an IPv4 frame and sends it to `peer`.
#[inline(always)]
pub(crate) fn send(skb: &Skb, peer: &Peer, inner_tos: u8) -> Result<Verdict, Reason> {
    let outer = vxlan::encapsulate(&Encap {
        local: UPLINK_IP.load(),
        remote: peer.public_ip,
        src_port: source_port::from_hash(skb.flow_hash(), PORT_MIN.load(), PORT_MAX.load()),
        dst_port: VXLAN_PORT.load().to_be_bytes(),
        vni: VNI.load(),
        src_mac: VTEP_MAC.load(),
        dst_mac: peer.vtep_mac,
        inner_tos,
        id: skb::random_id(),
        inner_len: inner_len(skb)?,
    })
    .ok_or(Reason::EncapRefused)?;
    // The lookup's value may change under us once the packet is being rewritten; take it now.
    let next_hop = peer.next_hop;

    skb.grow().map_err(|_| Reason::EncapRefused)?;
    skb.store(Eth::LEN, &outer).map_err(|_| Reason::Mangled)?;
    skb.clear_mark();
    let action = skb::redirect_to_neighbour(UPLINK_IFINDEX.load(), next_hop);
    Ok(Verdict::Taken(action, Reason::Encap))
}

#[inline(always)]
fn inner_len(skb: &Skb) -> Result<u16, Reason> {
    let len = skb.len().wrapping_sub(Eth::LEN as u32);
    u16::try_from(len).map_err(|_| Reason::EncapRefused)
}
