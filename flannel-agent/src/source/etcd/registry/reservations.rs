//! Reservations: leases that no etcd lease ends, as flannel 0.7 kept them.

use ipnet::Ipv4Net;

use super::{Hold, Registry, RegistryError, Rights, held, holder_or_nobody};
use crate::flannel::lease::{LeaseAttrs, SubnetKey};
use crate::flannel::remote::Reservation;
use crate::source::etcd::acquire::renew;

impl Registry {
    /// # Errors
    /// No answer.
    pub async fn reservations(&self) -> Result<Vec<Reservation>, RegistryError> {
        let entries = self.store.list().await?.entries.into_iter();
        let reserved = entries.filter(|entry| entry.etcd_lease.is_none());
        let read = reserved.filter_map(|entry| {
            Some(Reservation {
                subnet: entry.key.v4,
                public_ip: entry.attrs.ok()?.public_ip,
            })
        });
        Ok(read.collect())
    }

    /// Keeps a subnet for a node; a lease that it has already stays as it is, and ends no more.
    ///
    /// # Errors
    /// No answer, or the subnet is another node's, or none of the network, or the node has enough.
    pub async fn reserve(
        &self,
        reservation: Reservation,
        rights: Rights<'_>,
    ) -> Result<(), RegistryError> {
        let Reservation { subnet, public_ip } = reservation;
        let key = SubnetKey::from(subnet);
        let _turn = self.turns.of(public_ip, rights).await;
        loop {
            let (_, entry) = self.store.get(key).await?;
            let written = match entry {
                Some(entry) => match &entry.attrs {
                    Ok(attrs) if attrs.public_ip == public_ip => {
                        let revision = entry.mod_revision;
                        self.store
                            .replace(key, revision, attrs, Hold::Forever)
                            .await?
                    }
                    _ => return Err(held(subnet, &entry)),
                },
                None => {
                    self.require_free(subnet, public_ip, rights).await?;
                    let attrs = LeaseAttrs {
                        public_ip,
                        public_ipv6: None,
                        backend_type: String::new(),
                        backend_data: None,
                        backend_v6_data: None,
                    };
                    self.store.create(key, &attrs, Hold::Forever).await?
                }
            };
            if written.is_some() {
                return Ok(());
            }
        }
    }

    /// From here on it is a lease as any other, and ends in a day unless its node renews it.
    ///
    /// # Errors
    /// No answer, no such reservation, or it is not the caller's.
    pub async fn unreserve(
        &self,
        subnet: Ipv4Net,
        rights: Rights<'_>,
    ) -> Result<(), RegistryError> {
        let key = SubnetKey::from(subnet);
        loop {
            let (_, entry) = self.store.get(key).await?;
            let entry = entry.filter(|entry| entry.etcd_lease.is_none());
            let entry = entry.ok_or(RegistryError::NoReservation(subnet))?;
            rights.require(subnet, holder_or_nobody(&entry))?;
            let Ok(attrs) = &entry.attrs else {
                if self.store.delete(key, entry.mod_revision).await? {
                    return Ok(());
                }
                continue;
            };
            let written = renew(&self.store, key, entry.mod_revision, attrs).await?;
            if written.is_some() {
                return Ok(());
            }
        }
    }
}
