//! Taking this node's lease.

use std::net::Ipv4Addr;

use super::error::EtcdError;
use super::plan::{Plan, plan};
use super::store::{Entry, Grant, Hold, Store};
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, OwnLease, SubnetKey};
use crate::source::LeaseRequest;

/// Takes a lease; starts over when another node was quicker.
pub(super) async fn acquire(
    store: &Store,
    config: &NetworkConfig,
    request: &LeaseRequest,
) -> Result<OwnLease, EtcdError> {
    let attrs = &request.attrs;
    let mut previous = request.previous;
    loop {
        let listing = store.list().await?;
        let step = plan(
            config,
            attrs.public_ip,
            previous,
            &listing.entries,
            &mut rand::rng(),
        );
        let (key, taken) = match step {
            Plan::Take(entry) => (entry.key, take(store, entry, attrs).await?),
            Plan::Create(subnet) => {
                let key = SubnetKey::from(subnet);
                (key, create(store, key, attrs).await?.map(|(hold, _)| hold))
            }
            Plan::Delete(entry) => {
                tracing::warn!(
                    lease = %entry.key,
                    "our lease does not fit the network configuration any more: giving it up"
                );
                // One that was written meanwhile is looked at again.
                store.delete(entry.key, entry.mod_revision).await?;
                // Its IPv4 part may fit still, when only the key's form was wrong.
                previous = previous.or(Some(entry.key.v4));
                continue;
            }
            Plan::OutOfSubnets => {
                return Err(EtcdError::out_of_subnets(config));
            }
        };
        match taken {
            Some(hold) => {
                tracing::info!(lease = %key, reserved = hold == Hold::Forever, "lease acquired");
                return Ok(OwnLease {
                    subnet: key.v4,
                    attrs: attrs.clone(),
                    expires: hold.expires(),
                });
            }
            None => tracing::info!(lease = %key, "another node was quicker: trying again"),
        }
    }
}

/// Makes a lease that names us ours for another day. A reservation stays one.
pub(super) async fn take(
    store: &Store,
    entry: &Entry,
    attrs: &LeaseAttrs,
) -> Result<Option<Hold>, EtcdError> {
    let (key, revision) = (entry.key, entry.mod_revision);
    let written = if entry.etcd_lease.is_none() {
        if entry.attrs.as_ref().is_ok_and(|old| old == attrs) {
            return Ok(Some(Hold::Forever));
        }
        store
            .replace(key, revision, attrs, Hold::Forever)
            .await?
            .map(|_| Hold::Forever)
    } else {
        renew(store, key, revision, attrs)
            .await?
            .map(|(hold, _)| hold)
    };
    Ok(written)
}

/// Writes a free key under a new etcd lease. `None`: it is no longer free.
pub(super) async fn create(
    store: &Store,
    key: SubnetKey,
    attrs: &LeaseAttrs,
) -> Result<Option<(Hold, i64)>, EtcdError> {
    let grant = store.grant().await?;
    let hold = Hold::Until(grant);
    let revision = store.create(key, attrs, hold).await;
    written(store, grant, revision).await
}

/// Writes our key anew under a new etcd lease, as flannel does; the old one then ends without
/// effect. `None`: somebody else wrote the key since `mod_revision`.
pub(super) async fn renew(
    store: &Store,
    key: SubnetKey,
    mod_revision: i64,
    attrs: &LeaseAttrs,
) -> Result<Option<(Hold, i64)>, EtcdError> {
    let grant = store.grant().await?;
    let hold = Hold::Until(grant);
    let revision = store.replace(key, mod_revision, attrs, hold).await;
    written(store, grant, revision).await
}

/// Gives the etcd lease back on which nothing was written. What may be written is left: the key would end with it.
async fn written(
    store: &Store,
    grant: Grant,
    revision: Result<Option<i64>, EtcdError>,
) -> Result<Option<(Hold, i64)>, EtcdError> {
    let is_empty = match &revision {
        Ok(revision) => revision.is_none(),
        Err(error) => error.did_nothing(),
    };
    if is_empty {
        store.revoke(grant).await;
    }
    Ok(revision?.map(|revision| (Hold::Until(grant), revision)))
}

/// The lease that names `public_ip`; of several, one that carries a MAC.
pub(super) async fn previous_lease(
    store: &Store,
    public_ip: Ipv4Addr,
) -> Result<Option<OwnLease>, EtcdError> {
    let listing = store.list().await?;
    let ours = listing
        .entries
        .into_iter()
        .filter_map(|entry| Some((entry.key, entry.etcd_lease, entry.attrs.ok()?)))
        .filter(|(_, _, attrs)| attrs.public_ip == public_ip)
        .min_by_key(|(_, _, attrs)| attrs.vxlan_data().is_err());
    let Some((key, etcd_lease, attrs)) = ours else {
        return Ok(None);
    };
    let grant = match etcd_lease {
        Some(id) => store.look_up(id).await?,
        None => None,
    };
    Ok(Some(OwnLease {
        subnet: key.v4,
        attrs,
        expires: grant.map(|grant| grant.until),
    }))
}
