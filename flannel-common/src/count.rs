//! What is counted of packets.

use bytemuck::{Pod, Zeroable};

/// Packets and bytes (`skb->len` when the verdict was reached; GSO packets count as one).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}
