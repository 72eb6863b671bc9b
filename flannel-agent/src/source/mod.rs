//! Where leases come from: etcd, the Kubernetes API, or a server that has etcd behind it.

mod der;
pub mod etcd;
mod identity;
pub mod kube;
pub mod networks;
pub mod place;
pub mod remembered;
pub mod remote;
mod trusted;
mod usage;

use std::future::Future;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::base::wall::Moment;
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, Leases, OwnLease};
use place::Place;

/// A datastore restored from a backup lacks leases of nodes that live. Each takes its own again as soon as it notices,
/// within seconds; for so long what was known of it counts.
const RESTORED: Duration = Duration::from_mins(1);

/// What a node asks of the datastore when it starts.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    pub attrs: LeaseAttrs,
    /// The subnet of the previous run, from the subnet file.
    pub previous: Option<Ipv4Net>,
}

/// The caller cancelled before there was a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// A datastore of leases. The first three wait while the datastore does not answer and fail with
/// [`Cancelled`] when cancelled meanwhile; `keep` and `follow` run until then and return `Ok`.
pub trait LeaseSource: Send + Sync + 'static {
    /// Asks once: whether nobody answers at all. A refusal is an answer.
    fn is_silent(&self) -> impl Future<Output = bool> + Send;

    /// When what our lease rests on was heard, if that is no answer of now.
    fn rests_on(&self) -> watch::Receiver<Option<Moment>> {
        watch::channel(None).1
    }

    /// Waits until somebody answers. Where the configuration is kept by the datastore itself, reading that is waiting enough.
    fn answers(
        &self,
        _cancel: &CancellationToken,
    ) -> impl Future<Output = anyhow::Result<()>> + Send {
        async { Ok(()) }
    }

    /// Where what it says holds.
    fn place(&self) -> Place {
        Place::here()
    }

    /// Reads the network's configuration, waiting (one try a second) while it is missing or invalid.
    fn network_config(
        &self,
        cancel: &CancellationToken,
    ) -> impl Future<Output = anyhow::Result<NetworkConfig>> + Send;

    /// This node's address has changed: what is connected from the old one is dead, and nobody says so. Connects anew.
    fn reconnect(&self);

    /// Everybody's leases, this node's of an earlier run included: which of its addresses is its own, they say.
    fn leases(
        &self,
        cancel: &CancellationToken,
    ) -> impl Future<Output = anyhow::Result<Leases>> + Send;

    /// The address that an admin has given this node in the datastore: as `--public-ip`, and before it.
    fn node_public_ip(
        &self,
        _cancel: &CancellationToken,
    ) -> impl Future<Output = anyhow::Result<Option<Ipv4Addr>>> + Send {
        async { Ok(None) }
    }

    /// This node forwards: whoever waits for that may know.
    fn forwards(&self) {}

    /// The lease that already names `public_ip`, if any: ours of an earlier run. Its MAC is the one
    /// that peers send to, so it is asked for before a MAC is chosen.
    fn previous_lease(
        &self,
        public_ip: Ipv4Addr,
        cancel: &CancellationToken,
    ) -> impl Future<Output = anyhow::Result<Option<OwnLease>>> + Send;

    /// Takes this node's lease: the one it had, or a free one.
    fn acquire(
        &self,
        config: &NetworkConfig,
        request: &LeaseRequest,
        cancel: &CancellationToken,
    ) -> impl Future<Output = anyhow::Result<OwnLease>> + Send;

    /// Keeps the lease in `own` alive until cancelled: renews it, rewrites it when `attrs` change,
    /// and takes the same subnet again if it was taken away. Publishes each change on `own`; its
    /// subnet changes only when another node got hold of the old one.
    fn keep(
        &self,
        config: &NetworkConfig,
        own: &watch::Sender<OwnLease>,
        attrs: watch::Receiver<LeaseAttrs>,
        cancel: &CancellationToken,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Follows everybody else's leases until cancelled; survives the loss of the datastore.
    ///
    /// `known` is what this node reaches already. Of that, what the datastore lacks counts for a while: it may have been
    /// wiped, or restored from a backup, and live nodes take their leases again.
    ///
    /// The first notification on `leases` is the first complete snapshot, also when it is empty.
    /// Before it the channel's value means nothing: whoever acted on it would forget every peer.
    fn follow(
        &self,
        own: watch::Receiver<OwnLease>,
        known: Leases,
        leases: &watch::Sender<Leases>,
        cancel: &CancellationToken,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;
}
