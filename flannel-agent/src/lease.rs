//! A lease: one node's subnet and how its tunnel endpoint is reached.
//!
//! The JSON form is flannel's, to the byte; see `lease/` for the codec.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::Ipv4Net;

/// What a node publishes about itself under its subnet's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAttrs {
    /// Where other nodes send tunnel packets, or the next hop for host-gw.
    pub public_ip: Ipv4Addr,
    pub public_ipv6: Option<Ipv6Addr>,
    /// `vxlan` or `host-gw`; empty when the writer left it out.
    pub backend_type: String,
    /// Backend-specific JSON, kept as it was written.
    pub backend_data: Option<serde_json::Value>,
    pub backend_v6_data: Option<serde_json::Value>,
}

/// Every lease of the network but our own, by subnet. Cheap to clone: a snapshot, never a queue,
/// so a slow reader sees the newest state and not a backlog.
pub type Leases = Arc<BTreeMap<Ipv4Net, LeaseAttrs>>;

/// The lease this node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnLease {
    pub subnet: Ipv4Net,
    pub attrs: LeaseAttrs,
    /// `None` for a reservation: a key without an etcd lease, which never expires.
    pub expires: Option<SystemTime>,
}
