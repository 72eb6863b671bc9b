//! Which flow a packet is of.

use bytemuck::{Pod, Zeroable};

use crate::Ipv4;
use crate::header::Ip;
use crate::snat::Key;
use crate::transport::L4;

/// A flow as this node sees it; both directions have one key.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct FlowKey {
    /// The pod on this node.
    pub local: Ipv4,
    /// The pod on the other node.
    pub remote: Ipv4,
    /// Ports in network order.
    pub local_port: [u8; 2],
    pub remote_port: [u8; 2],
    pub proto: u8,
    pub pad: [u8; 3],
}

impl FlowKey {
    /// Of a packet that leaves this node.
    #[inline(always)]
    pub const fn outbound(ip: &Ip, l4: &L4) -> Self {
        Self::of(ip.src, ip.dst, [l4[0], l4[1], l4[2], l4[3]], ip.proto)
    }

    /// Of a packet that arrives.
    #[inline(always)]
    pub const fn inbound(ip: &Ip, l4: &L4) -> Self {
        Self::of(ip.dst, ip.src, [l4[2], l4[3], l4[0], l4[1]], ip.proto)
    }

    /// Of a packet that leaves as the node, from before it was translated.
    #[inline(always)]
    pub const fn untranslated(key: &Key) -> Self {
        let ([a, b], [c, d]) = (key.src_port, key.dst_port);
        Self::of(key.src, key.dst, [a, b, c, d], key.proto)
    }

    /// Stands for a pod: where no proof is asked for, for all flows to it; else for the port to which the bridge sends
    /// what the stack has let through.
    #[inline(always)]
    pub const fn pod(local: Ipv4) -> Self {
        Self::of(local, [0; 4], [0; 4], 0)
    }

    /// By words: field by field, LLVM calls `memset` for three bytes of padding.
    #[inline(always)]
    const fn of(local: Ipv4, remote: Ipv4, ports: [u8; 4], proto: u8) -> Self {
        bytemuck::must_cast([
            u32::from_ne_bytes(local),
            u32::from_ne_bytes(remote),
            u32::from_ne_bytes(ports),
            u32::from_ne_bytes([proto, 0, 0, 0]),
        ])
    }
}
