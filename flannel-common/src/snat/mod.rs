//! Selective source NAT: which packet leaves as the node, under which port, and whom its reply is for.
//!
//! The decisions are made here, on values; a [`Table`] is the map in the kernel and a model in tests.
//! A flow a pod opened has two entries, one per way ([`Key::way`]), which name each other: the *out* half
//! says as whom it leaves, the *in* half for whom its replies are. Either half brings back the other when
//! the LRU took it. What is not to be translated is known by a single entry: an *out* entry that says
//! "leave" for a connection that came in, an *in* entry that says "the node's own" for what the node or
//! the kernel's NAT sends from inside our port range.

mod choice;
mod entry;
mod icmp_error;
mod inbound;
mod outbound;
mod packet;
mod port;
mod room;
mod rule;
mod seen;
mod stream;
mod sweep;
mod table;
mod times;
mod transport;

pub use choice::{Choice, Choices, Lent, MAX_CHOICES};
pub use entry::{
    Entry, Former, Fragment, FragmentKey, KIND_LEAVE, KIND_OWN, KIND_PAIR, Key, WAY_IN, WAY_OUT,
};
pub use icmp_error::{Embedded, Rewritten, rewrite};
pub use inbound::{came_in, inbound, note};
pub use outbound::{Outbound, Refused, Whose, known, open, outbound, take_back, yield_to_node};
pub use packet::Packet;
pub use port::{Order, PROBES, Ports, ROUNDS};
pub use room::{
    ENTRIES_A_PLACE, LOOKS, Lasting, Place, SHARES, Share, Stand, end, is_a_pods, lasts,
    most_of_all, most_of_one, places, share, stand, yields_lasting, yields_port,
};
pub use rule::{Cluster, Rule, decide};
pub use seen::{FRAGMENT_LIFETIME, NANOS, Seen, state};
pub use stream::{LEAP, Segment, Side, Talk, judge, place};
pub use sweep::{Flow, Halves, end_stray, is_over, is_stray, may_be_over, other_half, sweep};
pub use table::{Claim, Slot, Table, find, hear, locate};
pub use times::Times;
pub use transport::{Transport, counterpart, is_icmp_error, is_icmp_redirect, is_icmp_request};

use crate::Ipv4;

/// An address and a port (or ICMP id): what one side of a flow is rewritten to.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    pub addr: Ipv4,
    /// Network order.
    pub port: [u8; 2],
}

/// What the node gives to a decision.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// The address that new flows leave as on this device; of the node's own packets, the one they have.
    pub local: Ipv4,
    /// Index of the device.
    pub device: u32,
    pub ports: Ports,
    /// Monotonic nanoseconds, coarse.
    pub now: u64,
}
