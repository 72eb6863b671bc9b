//! Where leases come from. etcd today; the Kubernetes API fits behind the same trait.

use std::future::Future;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::NetworkConfig;
use crate::lease::{LeaseAttrs, Leases, OwnLease};

/// What a node asks of the datastore when it starts.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    pub attrs: LeaseAttrs,
    /// The subnet of the previous run, from the subnet file.
    pub previous: Option<Ipv4Net>,
}

/// A datastore of leases.
pub trait LeaseSource: Send + Sync + 'static {
    /// Reads the network's configuration, waiting (one try a second) while it is missing or invalid.
    fn network_config(
        &self,
        cancel: &CancellationToken,
    ) -> impl Future<Output = anyhow::Result<NetworkConfig>> + Send;

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

    /// Keeps the own lease alive until cancelled: renews it, rewrites it when `attrs` change,
    /// and takes the same subnet again if it was taken away. Publishes each change on `own`.
    fn keep(
        &self,
        config: &NetworkConfig,
        own: &watch::Sender<OwnLease>,
        attrs: watch::Receiver<LeaseAttrs>,
        cancel: &CancellationToken,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Follows everybody else's leases until cancelled; survives the loss of the datastore.
    fn follow(
        &self,
        own: watch::Receiver<OwnLease>,
        leases: &watch::Sender<Leases>,
        cancel: &CancellationToken,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;
}
