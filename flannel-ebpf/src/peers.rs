//! Look-ups in the two maps that hold the leases.

use aya_ebpf::btf_maps::lpm_trie::Key;
use flannel_common::Ipv4;
use flannel_common::cidr;
use flannel_common::maps::Peer;
use flannel_common::reason::Reason;

use crate::globals::{SUBNET, SUBNET_MASK};
use crate::maps::{PEERS, VTEPS};

/// The peer whose subnet covers `addr`.
#[inline(always)]
pub(crate) fn of(addr: Ipv4) -> Option<&'static Peer> {
    PEERS.get(&Key::new(32, addr))
}

/// Whether an outer source may bring this inner source: it must be a peer, and an inner source inside
/// a leased subnet must be that peer's. What nobody leases (a node's own address, a client that a node forwards for), inside
/// the Network or outside, may come from any peer.
#[inline(always)]
pub(crate) fn may_send(outer_src: Ipv4, inner_src: Ipv4) -> Result<(), Reason> {
    match of(inner_src) {
        Some(peer) if peer.public_ip == outer_src => Ok(()),
        None if !cidr::contains(SUBNET.load(), SUBNET_MASK.load(), inner_src) => known(outer_src),
        _ => known(outer_src).and(Err(Reason::SpoofedSource)),
    }
}

#[inline(always)]
fn known(outer_src: Ipv4) -> Result<(), Reason> {
    VTEPS
        .get_ptr(outer_src)
        .map(|_| ())
        .ok_or(Reason::UnknownVtep)
}
