//! What the run loop asks of this node's kernel side. The real one is [`super::kernel`]; tests play their own.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, Leases, OwnLease};
use crate::node::uplink::{Memory, Uplink};

/// Everything that decides how the node has to forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub network: NetworkConfig,
    pub own: OwnLease,
    /// Everybody else's.
    pub leases: Leases,
    pub uplink: Uplink,
}

/// How much there is to lose by looking at it later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It may wait until the last look has paid off.
    Any,
    /// Until it is followed, packets are lost: the uplink has another MTU; or leave as somebody else than they should: there is
    /// another device or address to leave by.
    Urgent,
}

/// What was done, in words.
pub type Done = Vec<String>;

/// The node's uplink, devices and dataplane. Nothing here ever takes away what already forwards
/// because something else failed.
pub trait Node: Send + 'static {
    /// Looks for the interface towards the other nodes. Its address stays the same as long as it is there.
    fn uplink(&mut self) -> impl Future<Output = anyhow::Result<Uplink>> + Send;

    /// Before the first look: the address that other nodes send to, as an admin has it in the datastore.
    fn announce(&mut self, _public_ip: Ipv4Addr) {}

    /// Before the first look: what leases say of this node's address.
    fn remember(&mut self, memory: Memory);

    /// The leases that the node forwards by already, as an earlier agent left it. What cannot be found out is left out.
    fn reached(&mut self, network: &NetworkConfig) -> impl Future<Output = Leases> + Send;

    /// What this node publishes about itself, reached over `uplink`. `published` is what the
    /// datastore already holds for it: other nodes know that MAC.
    fn attrs(
        &mut self,
        network: &NetworkConfig,
        uplink: &Uplink,
        published: Option<&LeaseAttrs>,
    ) -> impl Future<Output = anyhow::Result<LeaseAttrs>> + Send;

    /// MTU for pods: what fits into a packet on the uplink.
    fn mtu(&self, wanted: &Wanted) -> u32;

    /// Observes the kernel, plans and applies the difference to `wanted`.
    fn reconcile(&mut self, wanted: &Wanted) -> impl Future<Output = anyhow::Result<Done>> + Send;

    /// As [`Self::reconcile`], when only leases of peers changed: touches the maps alone.
    fn update_peers(
        &mut self,
        wanted: &Wanted,
    ) -> impl Future<Output = anyhow::Result<Done>> + Send;

    /// Why this node is not ready although it was brought up to date: packets are lost at what is not ours to change.
    fn hindrance(&self) -> Option<String> {
        None
    }

    /// What an operator has to put right: found by the last reconcile, in one sentence.
    fn complaint(&self) -> Option<String> {
        None
    }

    /// Leases that cannot be used, and why, as of the last reconcile.
    fn ignored(&self) -> BTreeMap<Ipv4Net, String> {
        BTreeMap::new()
    }

    /// Waits until links, addresses or routes changed. Dropping the future loses nothing.
    fn changed(&mut self) -> impl Future<Output = Change> + Send;
}
