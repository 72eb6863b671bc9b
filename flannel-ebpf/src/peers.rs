//! Look-ups in the map of the leases.

use aya_ebpf::btf_maps::lpm_trie::Key;
use flannel_common::Ipv4;
use flannel_common::maps::Peer;

use crate::maps::PEERS;

/// The peer whose subnet covers `addr`.
#[inline(always)]
pub(crate) fn of(addr: Ipv4) -> Option<&'static Peer> {
    PEERS.get(&Key::new(32, addr))
}
