//! What a SNAT program knows of its packet.

use flannel_common::budget::Budget;
use flannel_common::header::Ip;
use flannel_common::snat::{Embedded, Endpoint, Node, Packet, Segment, Whose};

/// What the next step is for.
#[derive(Clone, Copy)]
pub(crate) enum Odd {
    /// An ICMP error.
    Error,
    /// An ICMP redirect, which carries a packet as errors do.
    Redirect,
    /// ICMP that neither asks, answers nor complains.
    Neither,
    /// A fragment behind the first.
    Follower,
    /// A first fragment that is the node's own.
    First,
    /// A packet of a connection that came in for an address behind us.
    CameIn,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Work {
    pub(crate) ip: Ip,
    /// Where the payload of [`Work::ip`] begins in the frame.
    pub(crate) payload: u32,
    pub(crate) packet: Packet,
    /// Of a TCP packet, or of an earlier one.
    pub(crate) segment: Segment,
    pub(crate) node: Node,
    pub(crate) whose: Whose,
    pub(crate) odd: Odd,
    /// It was sent past the stack by `pod_tx`, and proves nothing.
    pub(crate) past_stack: bool,
    /// How much of the Ethernet header the packet lacks, bytes.
    pub(crate) missing: u32,
    /// Its flow leaves by another device, as [`Work::to`], and was heard of `silent` nanoseconds ago.
    pub(crate) elsewhere: bool,
    pub(crate) silent: u64,
    /// Of a packet that `uplink_tx` translates as part of a flow: see [`flannel_common::outside::is_worth_proof`].
    pub(crate) worth_proof: bool,
    /// Step that opens the flow, once there is [room](crate::snat_room).
    pub(crate) after: u32,
    /// Decides in which order ports are looked for.
    pub(crate) chance: u64,
    /// How often a port was looked for.
    pub(crate) rounds: u32,
    /// The new source (on the way out) or destination (on the way in).
    pub(crate) to: Endpoint,
    /// Of an ICMP error: its checksum, the packet it carries, and where that and its payload begin.
    pub(crate) icmp_check: [u8; 2],
    pub(crate) embedded: Embedded,
    pub(crate) embedded_at: u32,
    pub(crate) head_at: u32,
    /// Not of this packet but of all: the followers that went back to the end of the CPU's queue.
    pub(crate) waits: Budget,
}
