//! What a server for other nodes does with the networks in etcd: the same writes as for an own lease, so that several servers,
//! and nodes that ask etcd themselves, never get one subnet twice.

mod follow;
mod reservations;
mod rights;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::acquire::{acquire, create, take};
use super::error::{EtcdError, OptionsError};
use super::options::EtcdOptions;
use super::store::{Entry, Hold, Store};
use crate::flannel::config::{ConfigError, NetworkConfig};
use crate::flannel::lease::{LeaseAttrs, OwnLease, SubnetKey};
use crate::source::LeaseRequest;

pub use follow::{Held, News};
pub use rights::Rights;
use rights::Turns;

/// The networks below one prefix, or one of them.
#[derive(Debug)]
pub struct Registry {
    store: Store,
    turns: Turns,
}

/// A lease cannot be given, or not like this.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error("there is no such network: etcd has no key {0}")]
    NoNetwork(String),
    #[error("etcd key {key} is not usable: {error}")]
    Config { key: String, error: ConfigError },
    #[error("{subnet} overlaps {held}, the lease of {holder}")]
    Held {
        subnet: Ipv4Net,
        held: Ipv4Net,
        holder: String,
    },
    #[error("{0} is no subnet that this network's configuration would lease")]
    NotAdmitted(Ipv4Net),
    #[error("there is no lease of {0}")]
    NoLease(Ipv4Net),
    #[error("there is no reservation of {0}")]
    NoReservation(Ipv4Net),
    #[error("the lease of {subnet} is {holder}'s, and the certificate does not name that address")]
    Forbidden { subnet: Ipv4Net, holder: Ipv4Addr },
    #[error("{holder} has {held} subnets already, which is all that one PublicIP may have here")]
    Enough { holder: Ipv4Addr, held: usize },
}

impl Registry {
    /// Prepares connections; none is made before the first use.
    ///
    /// # Errors
    /// When an endpoint is no URL or a certificate file cannot be used.
    pub fn new(options: &EtcdOptions) -> Result<Self, OptionsError> {
        Ok(Self {
            store: Store::new(options)?,
            turns: Turns::default(),
        })
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The same again.
    #[must_use]
    pub fn this(&self) -> Self {
        Self {
            store: self.store.clone(),
            turns: self.turns.clone(),
        }
    }

    /// The network of that name, over the same connections.
    #[must_use]
    pub fn network(&self, name: &str) -> Self {
        Self {
            store: self.store.network(name),
            turns: self.turns.clone(),
        }
    }

    /// The configuration as it was written.
    ///
    /// # Errors
    /// There is none, or no answer.
    pub async fn config(&self) -> Result<String, RegistryError> {
        let config = self.store.read_config().await?;
        config.ok_or_else(|| RegistryError::NoNetwork(self.store.config_key()))
    }

    async fn network_config(&self) -> Result<NetworkConfig, RegistryError> {
        let text = self.config().await?;
        // Only what concerns subnets: a backend that this build does not know is its clients' affair.
        NetworkConfig::parse_subnets(&text).map_err(|error| RegistryError::Config {
            key: self.store.config_key(),
            error,
        })
    }

    /// The newest revision of etcd.
    ///
    /// # Errors
    /// No answer.
    pub async fn revision(&self) -> Result<i64, RegistryError> {
        Ok(self.store.position().await?.revision)
    }

    /// Gives the node of `attrs` a lease: the one it has, `previous`, or a free one.
    ///
    /// # Errors
    /// No answer, no such network, or no subnet left.
    pub async fn acquire(
        &self,
        attrs: &LeaseAttrs,
        previous: Option<Ipv4Net>,
        rights: Rights<'_>,
    ) -> Result<OwnLease, RegistryError> {
        // The second of two that ask at once finds what the first got.
        let _turn = self.turns.of(attrs.public_ip, rights).await;
        let config = self.network_config().await?;
        let request = LeaseRequest {
            attrs: attrs.clone(),
            previous,
        };
        Ok(acquire(&self.store, &config, &request).await?)
    }

    /// Writes the lease of `subnet` for another day, also where it is gone. `was`: the PublicIP that it names until now.
    ///
    /// # Errors
    /// No answer, or another node has the subnet.
    pub async fn renew(
        &self,
        subnet: Ipv4Net,
        attrs: &LeaseAttrs,
        was: Option<Ipv4Addr>,
        rights: Rights<'_>,
    ) -> Result<OwnLease, RegistryError> {
        let key = SubnetKey::from(subnet);
        let _turn = self.turns.of(attrs.public_ip, rights).await;
        loop {
            let (_, entry) = self.store.get(key).await?;
            let written = match entry {
                Some(entry) => {
                    own_or_nobodys(&entry, attrs.public_ip, was, rights)?;
                    if rights.most.is_some() && !entry.names(attrs.public_ip) {
                        let entries = self.store.list().await?.entries;
                        rights.require_few(&entries, attrs.public_ip)?;
                    }
                    take(&self.store, &entry, attrs).await?
                }
                None => {
                    self.require_free(subnet, attrs.public_ip, rights).await?;
                    let created = create(&self.store, key, attrs).await?;
                    created.map(|(hold, _)| hold)
                }
            };
            if let Some(hold) = written {
                return Ok(OwnLease {
                    subnet,
                    attrs: attrs.clone(),
                    expires: hold.expires(),
                });
            }
        }
    }

    /// Ends the lease of `subnet`, if it is `was`'s where that is given.
    ///
    /// # Errors
    /// No answer, no such lease, or it is not the caller's.
    pub async fn revoke(
        &self,
        subnet: Ipv4Net,
        was: Option<Ipv4Addr>,
        rights: Rights<'_>,
    ) -> Result<(), RegistryError> {
        let key = SubnetKey::from(subnet);
        loop {
            let (_, entry) = self.store.get(key).await?;
            let entry = entry.ok_or(RegistryError::NoLease(subnet))?;
            if was.is_some_and(|was| !entry.names(was)) {
                return Err(held(subnet, &entry));
            }
            rights.require(subnet, holder_or_nobody(&entry))?;
            // Whoever wrote it meanwhile may be somebody else.
            if self.store.delete(key, entry.mod_revision).await? {
                return Ok(());
            }
        }
    }

    /// Whether the network would lease `subnet`, nobody has a part of it, and whoever is to have it may have one more.
    async fn require_free(
        &self,
        subnet: Ipv4Net,
        public_ip: Ipv4Addr,
        rights: Rights<'_>,
    ) -> Result<(), RegistryError> {
        if !self.network_config().await?.admits(subnet) {
            return Err(RegistryError::NotAdmitted(subnet));
        }
        let entries = self.store.list().await?.entries;
        let overlaps = |net: Ipv4Net| net.contains(&subnet) || subnet.contains(&net);
        // A key that is there by now is looked at again.
        let mut others = entries.iter().filter(|entry| entry.key != subnet.into());
        match others.find(|entry| overlaps(entry.key.v4)) {
            Some(entry) => Err(held(subnet, entry)),
            None => rights.require_few(&entries, public_ip),
        }
    }
}

fn held(subnet: Ipv4Net, entry: &Entry) -> RegistryError {
    let holder = entry.attrs.as_ref();
    let holder = holder.map_or("somebody".to_owned(), |attrs| attrs.public_ip.to_string());
    RegistryError::Held {
        subnet,
        held: entry.key.v4,
        holder,
    }
}

/// A value that cannot be read names nobody.
fn own_or_nobodys(
    entry: &Entry,
    public_ip: Ipv4Addr,
    was: Option<Ipv4Addr>,
    rights: Rights<'_>,
) -> Result<(), RegistryError> {
    let subnet = entry.key.v4;
    match entry.attrs.as_ref().map(|attrs| attrs.public_ip) {
        Ok(holder) if holder != public_ip && Some(holder) != was => Err(held(subnet, entry)),
        Ok(holder) => rights.require(subnet, holder),
        Err(_) => rights.require(subnet, holder_or_nobody(entry)),
    }
}

/// Whose lease it is. One that cannot be read is nobody's that could show a certificate.
fn holder_or_nobody(entry: &Entry) -> Ipv4Addr {
    let holder = entry.attrs.as_ref().map(|attrs| attrs.public_ip);
    holder.unwrap_or(Ipv4Addr::UNSPECIFIED)
}
