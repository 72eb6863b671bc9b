//! Questions about one network to whatever datastore the daemon has.

use crate::flannel::lease::OwnLease;
use crate::settings::Config;
use crate::source::etcd::EtcdSource;
use crate::source::remote::RemoteSource;

/// Whether it has a configuration, usable or not.
///
/// # Errors
/// The datastore does not answer.
pub(super) async fn has_network(config: &Config, name: &str) -> anyhow::Result<bool> {
    Ok(match &config.remote {
        Some(remote) => RemoteSource::new(remote)?.has_network(name).await?,
        None => EtcdSource::new(&config.etcd)?.has_network_config().await?,
    })
}

/// Ends a lease of ours, unless it is a reservation or somebody else's by now.
///
/// # Errors
/// The datastore does not answer, or refuses.
pub(super) async fn release(config: &Config, own: &OwnLease) -> anyhow::Result<()> {
    match &config.remote {
        Some(remote) => RemoteSource::new(remote)?.release(own).await?,
        None => EtcdSource::new(&config.etcd)?.release(own).await?,
    }
    Ok(())
}
