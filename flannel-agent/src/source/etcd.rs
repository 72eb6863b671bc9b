//! Leases in etcd v3, laid out as flannel does: `<prefix>/config` and one key per node under `<prefix>/subnets/`.

mod acquire;
mod dial;
mod endpoint;
mod error;
mod follow;
mod keep;
mod networks;
mod options;
mod paths;
pub(super) mod patience;
mod plan;
pub(super) mod preview;
pub mod registry;
mod session;
pub(super) mod store;
pub(super) mod table;
pub(super) mod tls;
pub(super) mod told;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Cancelled, LeaseRequest, LeaseSource};
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, Leases, OwnLease};

pub use error::{EtcdError, OptionsError};
pub use networks::EtcdNetworks;
pub use options::{ClientIdentity, EtcdOptions, Login, Tls};
use patience::Patience;
pub use preview::{LeaseChange, LeasePreview};
use store::{Entry, Store};

/// flannel asks for a missing or invalid configuration once a second.
const CONFIG_POLL: Duration = Duration::from_secs(1);

/// The leases of one network in etcd.
#[derive(Debug)]
pub struct EtcdSource {
    store: Store,
    renew_margin: Duration,
}

impl EtcdSource {
    /// Prepares connections; none is made before the first use.
    ///
    /// # Errors
    /// When an endpoint is no URL or a certificate file cannot be used.
    pub fn new(options: &EtcdOptions) -> Result<Self, OptionsError> {
        Ok(Self {
            store: Store::new(options)?,
            renew_margin: options.renew_margin,
        })
    }

    /// Reads the network's configuration, once.
    ///
    /// # Errors
    /// When etcd does not answer, or the configuration is missing or invalid; each says which.
    pub async fn read_network_config(&self) -> anyhow::Result<NetworkConfig> {
        let key = self.store.config_key();
        let json = self.store.read_config().await?.with_context(|| {
            format!(
                "etcd key {key} does not exist: write the network configuration there, for example \
                 etcdctl put {key} '{{\"Network\":\"10.244.0.0/16\",\"Backend\":{{\"Type\":\"vxlan\"}}}}'"
            )
        })?;
        NetworkConfig::parse(&json).with_context(|| format!("etcd key {key} is not usable"))
    }
}

impl EtcdSource {
    /// What [`LeaseSource::acquire`] would do, and everybody else's leases; writes nothing.
    ///
    /// # Errors
    /// When etcd does not answer, or has no subnet left.
    pub async fn preview(
        &self,
        config: &NetworkConfig,
        request: &LeaseRequest,
    ) -> Result<LeasePreview, EtcdError> {
        preview::preview(&self.store, config, &request.attrs, request.previous).await
    }

    /// Everybody's leases as they are now; what cannot be read is left out.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn read_leases(&self) -> Result<Leases, EtcdError> {
        let entries = self.store.list().await?.entries.into_iter();
        let leases = entries.filter_map(|entry| Some((entry.key.v4, entry.attrs.ok()?)));
        Ok(leases.collect::<BTreeMap<_, _>>().into())
    }

    /// Ends the lease `own`, unless it is a reservation or another node's by now.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn release(&self, own: &OwnLease) -> Result<(), EtcdError> {
        loop {
            let (_, entry) = self.store.get(own.subnet.into()).await?;
            let is_own = |it: &Entry| it.etcd_lease.is_some() && it.names(own.attrs.public_ip);
            let Some(entry) = entry.filter(is_own) else {
                return Ok(());
            };
            if self.store.delete(entry.key, entry.mod_revision).await? {
                return Ok(());
            }
        }
    }

    /// Whether there is a network configuration, usable or not.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn has_network_config(&self) -> Result<bool, EtcdError> {
        Ok(self.store.read_config().await?.is_some())
    }

    /// The lease that already names `public_ip`, asked for once.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn find_lease(&self, public_ip: Ipv4Addr) -> Result<Option<OwnLease>, EtcdError> {
        acquire::previous_lease(&self.store, public_ip).await
    }
}

impl LeaseSource for EtcdSource {
    async fn is_silent(&self) -> bool {
        let read = self.store.read_config().await;
        matches!(read, Err(EtcdError::Unreachable { .. }))
    }

    async fn network_config(&self, cancel: &CancellationToken) -> anyhow::Result<NetworkConfig> {
        let mut patience = Patience::every(CONFIG_POLL);
        loop {
            let read = cancel.run_until_cancelled(self.read_network_config());
            match read.await.ok_or(Cancelled)? {
                Ok(config) => {
                    patience.over();
                    return Ok(config);
                }
                Err(error) => {
                    let error = crate::base::logging::describe(&error);
                    let wait = patience.lost("waiting for the network configuration", &error);
                    cancel.run_until_cancelled(wait).await.ok_or(Cancelled)?;
                }
            }
        }
    }

    fn reconnect(&self) {
        self.store.reconnect();
    }

    async fn leases(&self, cancel: &CancellationToken) -> anyhow::Result<Leases> {
        patience::patiently("reading the leases", cancel, || self.read_leases()).await
    }

    async fn previous_lease(
        &self,
        public_ip: Ipv4Addr,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Option<OwnLease>> {
        patience::patiently("looking for this node's lease", cancel, || {
            acquire::previous_lease(&self.store, public_ip)
        })
        .await
    }

    async fn acquire(
        &self,
        config: &NetworkConfig,
        request: &LeaseRequest,
        cancel: &CancellationToken,
    ) -> anyhow::Result<OwnLease> {
        patience::patiently("acquiring a lease", cancel, || {
            acquire::acquire(&self.store, config, request)
        })
        .await
    }

    async fn keep(
        &self,
        config: &NetworkConfig,
        own: &watch::Sender<OwnLease>,
        attrs: watch::Receiver<LeaseAttrs>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        let keeper = keep::Keeper::new(&self.store, self.renew_margin, config, own, attrs);
        cancel.run_until_cancelled(keeper.run()).await;
        Ok(())
    }

    async fn follow(
        &self,
        own: watch::Receiver<OwnLease>,
        known: Leases,
        leases: &watch::Sender<Leases>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        let follower = follow::Follower::new(&self.store, own, known, leases);
        cancel.run_until_cancelled(follower.run()).await;
        Ok(())
    }
}
