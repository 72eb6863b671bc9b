//! What a stopped agent of another network left of the tunnel that this one wants, after a change of `--etcd-prefix`: it becomes this
//! network's, as flanneld takes its device as it is.

use std::path::Path;

use crate::dataplane::{DataplaneError, Life, is_half_inherited, life};
use crate::flannel::backend::Wire;
use crate::flannel::config::NetworkConfig;
use crate::node::net::{Link, NetError, Netlink};
use crate::node::{mark, wireguard};
use crate::reconcile::Dataplane;

/// A network as it is looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heir<'a> {
    pub(crate) network: &'a str,
    pub(crate) config: &'a NetworkConfig,
    pub(crate) bpffs: &'a Path,
    /// Programs are clsact filters.
    pub(crate) by_filters: bool,
}

/// The other network whose device stands where `heir` wants one, if its agent was here and is not any more.
///
/// # Errors
/// If the kernel does not answer.
pub(crate) async fn former(net: &Netlink, heir: Heir<'_>) -> Result<Option<String>, NetError> {
    let (network, bpffs) = (heir.network, heir.bpffs);
    let Some(device) = device(heir) else {
        return Ok(None);
    };
    let link = net.link(&device).await?;
    let marked = link.as_ref().and_then(mark::network_of);
    let others = marked.filter(|marked| *marked != network);
    Ok(others
        .filter(|other| match life(bpffs, other) {
            Life::Stopped => true,
            Life::Lives => false,
            Life::Unknown => is_half_inherited(bpffs, network, other),
        })
        .map(str::to_owned))
}

fn device(heir: Heir<'_>) -> Option<String> {
    let backend = &heir.config.backend;
    let wire = backend.tunnel().map(|tunnel| tunnel.wire);
    // Filters of a network without a VNI have its name in their handles: nobody would know them any more.
    if heir.by_filters && wire.and_then(Wire::vni).is_none() {
        return None;
    }
    let sealed = backend.wireguard().map(|_| wireguard::DEVICE.to_owned());
    wire.map(mark::device).or(sealed)
}

impl Dataplane {
    /// Takes over pins, devices and sysctls, so that what forwards goes on until it is brought up to date. What cannot be taken over, the
    /// plan names as in the way.
    ///
    /// # Errors
    /// If the kernel does not answer, or pins cannot be moved.
    pub(crate) async fn inherit(&mut self, config: &NetworkConfig) -> Result<(), DataplaneError> {
        let heir = Heir {
            network: self.bpf.network(),
            config,
            bpffs: self.bpf.bpffs(),
            by_filters: self.attaches_filters(),
        };
        let Some(from) = former(&self.net, heir).await? else {
            return Ok(());
        };
        let (marked, alias) = (mark::alias(&from), mark::alias(heir.network));
        if !self.bpf.inherit(&from)? {
            return Ok(());
        }
        let links = self.net.links().await?.into_iter();
        let is_marked = |link: &Link| link.alias.as_deref() == Some(&*marked);
        for link in links.filter(is_marked) {
            self.net.set_alias(link.index, &alias).await?;
        }
        if let Err(error) = self.shared.inherit(&from) {
            tracing::warn!("sysctls that the agent of the network {from} has set stay: {error}");
        }
        self.bpf.has_inherited(&from)?;
        tracing::warn!(
            "a stopped agent of another network, {from}, has left its dataplane: it is this network's from here on \
             (was --etcd-prefix changed?)"
        );
        Ok(())
    }
}
