//! What `uplink_xdp` tells `xdp_rx` about a packet whose outer headers are gone.

use bytemuck::{Pod, Zeroable};

use crate::header::Ip;
use crate::{Ipv4, Mac};

/// Changes with what [`Meta`] means.
const MAGIC: u32 = u32::from_be_bytes(*b"flV2");

/// In the metadata area in front of the frame. GRO merges packets with equal metadata only
/// (`skb_metadata_differs`), which those of one flow have.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Meta {
    seal: u32,
    /// Outer source address; it has passed the source check.
    pub outer_src: Ipv4,
}

impl Meta {
    /// `vtep_mac` is this node's, `inner` the header that the packet now begins with.
    #[inline(always)]
    pub const fn new(outer_src: Ipv4, vtep_mac: Mac, inner: &Ip) -> Self {
        Self {
            seal: seal(vtep_mac, inner),
            outer_src,
        }
    }

    /// Whether this node's driver said it of this packet. Other programs have metadata, too, and a veth pair keeps what another node on
    /// the machine has left there (`veth_xdp_rcv_skb`), though that has sent the packet on without a tunnel.
    #[inline(always)]
    pub fn is_of(&self, vtep_mac: Mac, inner: &Ip) -> bool {
        self.seal == seal(vtep_mac, inner)
    }
}

/// The same for all packets of a flow, so that they merge.
#[inline(always)]
const fn seal([_, _, a, b, c, d]: Mac, inner: &Ip) -> u32 {
    let ends = u32::from_ne_bytes(inner.src) ^ u32::from_ne_bytes(inner.dst).rotate_left(7);
    MAGIC ^ u32::from_be_bytes([a, b, c, d]) ^ ends
}

// A multiple of four, at most 32 bytes on older kernels (`bpf_xdp_adjust_meta`).
const _: () = assert!(size_of::<Meta>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn inner(src: Ipv4, dst: Ipv4) -> Ip {
        Ip {
            src,
            dst,
            ..Ip::zeroed()
        }
    }

    #[test]
    fn only_what_this_node_said_of_this_packet_counts() {
        let (pod, other) = ([10, 244, 1, 2], [10, 244, 2, 2]);
        let meta = Meta::new([192, 168, 0, 2], MAC, &inner(pod, other));
        assert!(meta.is_of(MAC, &inner(pod, other)));
        assert!(!meta.is_of([2, 0, 0, 0, 0, 2], &inner(pod, other)));
        assert!(!meta.is_of(MAC, &inner(other, pod)));
        assert!(!meta.is_of(MAC, &inner([203, 0, 113, 1], other)));
        assert!(!Meta::zeroed().is_of(MAC, &inner(pod, other)));
    }
}
