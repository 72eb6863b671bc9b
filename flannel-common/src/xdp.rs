//! What `uplink_xdp` tells `xdp_rx` about a packet whose outer headers are gone.

use bytemuck::{Pod, Zeroable};

use crate::Ipv4;

const MAGIC: [u8; 4] = *b"flV1";

/// In the metadata area in front of the frame. GRO merges packets with equal metadata only
/// (`skb_metadata_differs`), which those of one flow have.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Meta {
    magic: [u8; 4],
    /// Outer source address; it has passed the source check.
    pub outer_src: Ipv4,
}

impl Meta {
    #[inline(always)]
    pub const fn new(outer_src: Ipv4) -> Self {
        Self {
            magic: MAGIC,
            outer_src,
        }
    }

    /// Other programs have metadata too.
    #[inline(always)]
    pub fn is_ours(&self) -> bool {
        self.magic == MAGIC
    }
}

// A multiple of four, at most 32 bytes on older kernels (`bpf_xdp_adjust_meta`).
const _: () = assert!(size_of::<Meta>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_metadata_is_ours() {
        assert!(Meta::new([192, 168, 0, 2]).is_ours());
        assert!(!Meta::zeroed().is_ours());
    }
}
