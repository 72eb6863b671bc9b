//! Leases from a server that has etcd behind it, by the protocol of flannel 0.7: `flannel-agent --listen`, or an old flanneld.

mod api;
mod client;
mod clients;
mod error;
mod follow;
mod keep;
mod networks;
mod old_certificate;
mod options;
mod server_tls;
mod tls;
mod transport;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::etcd::patience::Patience;
use super::etcd::preview::{LeasePreview, preview_of};
use super::etcd::store::Entry;
use super::{Cancelled, LeaseRequest, LeaseSource};
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, Leases, OwnLease, SubnetKey};
use api::{Api, expiry};
use client::Client;
pub use error::{RemoteError, RemoteOptionsError};
use follow::Follower;
use keep::Keeper;
pub use networks::RemoteNetworks;
pub use options::{RemoteOptions, RemoteTls};
pub use server_tls::ServerTls;

/// A configuration that is missing or invalid is asked for once a second, as etcd's is.
const CONFIG_POLL: Duration = Duration::from_secs(1);

/// What was last heard of our own lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Seen {
    #[default]
    Nothing,
    Missing,
    Unreadable,
    Held(Box<LeaseAttrs>),
}

/// The leases of one network at some servers.
#[derive(Debug)]
pub struct RemoteSource {
    api: Api,
    renew_margin: Duration,
    seen: watch::Sender<Seen>,
}

/// What one server says of itself.
#[derive(Debug)]
pub struct Health {
    pub server: String,
    /// Its clock, when it answered.
    pub answer: Result<SystemTime, RemoteError>,
}

impl RemoteSource {
    /// Prepares connections; none is made before the first use.
    ///
    /// # Errors
    /// When a server is no host and port, or a certificate file cannot be used.
    pub fn new(options: &RemoteOptions) -> Result<Self, RemoteOptionsError> {
        Ok(Self {
            api: Api::new(Client::new(options)?, options.network.as_deref()),
            renew_margin: options.renew_margin,
            seen: watch::Sender::default(),
        })
    }

    /// Reads the network's configuration, once.
    ///
    /// # Errors
    /// When no server answers, or the configuration is missing or invalid; each says which.
    pub async fn read_network_config(&self) -> anyhow::Result<NetworkConfig> {
        let json = self.api.config().await?;
        let servers: Vec<&str> = self.api.client.servers().collect();
        NetworkConfig::parse(&json).with_context(|| {
            let servers = servers.join(" or ");
            format!("the network configuration of the server {servers} is not usable")
        })
    }

    /// What [`LeaseSource::acquire`] would do, and everybody else's leases; writes nothing.
    ///
    /// # Errors
    /// When no server answers, or there is no subnet left.
    pub async fn preview(
        &self,
        config: &NetworkConfig,
        request: &LeaseRequest,
    ) -> anyhow::Result<LeasePreview> {
        let (watched, _) = self.api.list().await?;
        let entries = watched.snapshot.into_iter().map(|lease| Entry {
            key: SubnetKey::from(lease.subnet),
            attrs: lease.attrs,
            created: 1,
            mod_revision: 1,
            // A reservation is what never ends.
            etcd_lease: lease.expires.map(|_| 1),
        });
        let entries = entries.collect();
        Ok(preview_of(
            entries,
            config,
            &request.attrs,
            request.previous,
        )?)
    }

    /// Everybody's leases as they are now; what cannot be read is left out.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn read_leases(&self) -> Result<Leases, RemoteError> {
        let (watched, _) = self.api.list().await?;
        let leases = watched.snapshot.into_iter();
        let leases = leases.filter_map(|lease| Some((lease.subnet, lease.attrs.ok()?)));
        Ok(leases.collect::<BTreeMap<_, _>>().into())
    }

    /// The lease that already names `public_ip`, asked for once; of several, one that carries a MAC.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn find_lease(&self, public_ip: Ipv4Addr) -> Result<Option<OwnLease>, RemoteError> {
        let (watched, answer) = self.api.list().await?;
        let ours = watched.snapshot.into_iter().filter_map(|lease| {
            let expires = expiry(&lease, &answer);
            let attrs = lease.attrs.ok()?;
            (attrs.public_ip == public_ip).then_some(OwnLease {
                subnet: lease.subnet,
                attrs,
                expires,
            })
        });
        Ok(ours.min_by_key(|lease| lease.attrs.vxlan_data().is_err()))
    }

    /// Whether the servers have a network of this name.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn has_network(&self, name: &str) -> Result<bool, RemoteError> {
        let networks = self.api.networks().await?;
        Ok(networks.snapshot.iter().any(|listed| listed == name))
    }

    /// Ends the lease `own`, unless it is a reservation or another node's by now.
    ///
    /// # Errors
    /// When no server answers, or it refuses.
    pub async fn release(&self, own: &OwnLease) -> Result<(), RemoteError> {
        if !self.holds(own).await? {
            return Ok(());
        }
        match self.api.revoke(own.subnet, own.attrs.public_ip).await {
            // Since we looked.
            Err(error) if error.is_conflict() => Ok(()),
            // The server before has ended it, and its answer was lost.
            Err(RemoteError::Refused { .. }) if !self.holds(own).await? => Ok(()),
            ended => ended,
        }
    }

    /// Whether the lease `own` is there, ours, and no reservation.
    async fn holds(&self, own: &OwnLease) -> Result<bool, RemoteError> {
        let (watched, answer) = self.api.list().await?;
        let names = |attrs: &LeaseAttrs| attrs.public_ip == own.attrs.public_ip;
        Ok(watched.snapshot.iter().any(|lease| {
            lease.subnet == own.subnet
                && lease.attrs.as_ref().is_ok_and(names)
                && expiry(lease, &answer).is_some()
        }))
    }

    /// Asks each server.
    pub async fn examine(&self) -> Vec<Health> {
        let answers = self.api.configs().await.into_iter();
        answers
            .map(|(server, answer)| Health {
                server,
                answer: answer.map(|answer| SystemTime::UNIX_EPOCH + answer.date.unix()),
            })
            .collect()
    }
}

/// Repeats `attempt` until it succeeds, as long as just nobody answers.
async fn patiently<T, F>(
    what: &str,
    cancel: &CancellationToken,
    attempt: impl Fn() -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, RemoteError>>,
{
    let mut patience = Patience::growing_with("the server");
    loop {
        let tried = cancel.run_until_cancelled(attempt());
        match tried.await.ok_or(Cancelled)? {
            Ok(value) => {
                patience.over();
                return Ok(value);
            }
            Err(error @ RemoteError::Unreachable { .. }) => {
                let wait = patience.lost(what, &error);
                cancel.run_until_cancelled(wait).await.ok_or(Cancelled)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

impl LeaseSource for RemoteSource {
    async fn is_silent(&self) -> bool {
        matches!(
            self.api.config().await,
            Err(RemoteError::Unreachable { .. })
        )
    }

    async fn network_config(&self, cancel: &CancellationToken) -> anyhow::Result<NetworkConfig> {
        let mut patience = Patience::every_with("the server", CONFIG_POLL);
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
        self.api.client.reconnect();
    }

    async fn leases(&self, cancel: &CancellationToken) -> anyhow::Result<Leases> {
        patiently("reading the leases", cancel, || self.read_leases()).await
    }

    async fn previous_lease(
        &self,
        public_ip: Ipv4Addr,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Option<OwnLease>> {
        patiently("looking for this node's lease", cancel, || {
            self.find_lease(public_ip)
        })
        .await
    }

    async fn acquire(
        &self,
        _config: &NetworkConfig,
        request: &LeaseRequest,
        cancel: &CancellationToken,
    ) -> anyhow::Result<OwnLease> {
        let own = patiently("acquiring a lease", cancel, || {
            self.api.acquire(&request.attrs, request.previous)
        })
        .await?;
        tracing::info!(lease = %own.subnet, reserved = own.expires.is_none(), "lease acquired");
        Ok(own)
    }

    async fn keep(
        &self,
        _config: &NetworkConfig,
        own: &watch::Sender<OwnLease>,
        attrs: watch::Receiver<LeaseAttrs>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        let seen = self.seen.subscribe();
        let keeper = Keeper::new(&self.api, self.renew_margin, own, attrs, seen);
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
        let follower = Follower::new(&self.api, own, known, leases, &self.seen);
        cancel.run_until_cancelled(follower.run()).await;
        Ok(())
    }
}
