//! A lease: one node's subnet and how its tunnel endpoint is reached.
//!
//! Keys ([`SubnetKey`]) and values ([`LeaseAttrs::to_json`]) are flannel's, to the byte.

mod diff;
mod key;
mod value;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;

pub use diff::{Change, diff};
pub use key::{KeyError, SubnetKey};
pub use value::ValueError;

/// How long a lease lives without renewal.
pub const TTL: Duration = Duration::from_hours(24);
/// How long before expiry a lease is renewed unless told otherwise.
pub const RENEW_MARGIN: Duration = Duration::from_mins(60);
/// However large the margin, etcd is not written to more often.
pub(crate) const SHORTEST_RENEWAL: Duration = Duration::from_secs(1);

/// `margin`, or the largest that leaves time between two renewals.
#[must_use]
pub fn usable_margin(margin: Duration) -> Duration {
    margin.min(TTL - SHORTEST_RENEWAL)
}

/// What a node publishes about itself under its subnet's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAttrs {
    /// Where other nodes send tunnel packets, or the next hop for host-gw.
    pub public_ip: Ipv4Addr,
    pub public_ipv6: Option<Ipv6Addr>,
    /// `vxlan` or `host-gw`; empty when the writer left it out.
    pub backend_type: String,
    /// Backend-specific JSON, kept as it was written. Leases are held by whoever follows them and by whoever acts on them, thousands
    /// each: what is large of one is shared.
    pub backend_data: Option<Arc<serde_json::Value>>,
    pub backend_v6_data: Option<Arc<serde_json::Value>>,
}

/// Every lease of the network but our own, by subnet. Cheap to clone: a snapshot, never a queue,
/// so a slow reader sees the newest state and not a backlog.
pub type Leases = Arc<BTreeMap<Ipv4Net, LeaseAttrs>>;

/// The lease this node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnLease {
    pub subnet: Ipv4Net,
    pub attrs: LeaseAttrs,
    /// When it ends unless it is renewed; `None` for a reservation: a key without an etcd lease, which never
    /// expires.
    pub expires: Option<Instant>,
}
