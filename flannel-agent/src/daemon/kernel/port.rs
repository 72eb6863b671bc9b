//! The tunnel's port: held by a socket, and nobody else's.

use anyhow::bail;

use super::Kernel;
use crate::base::options::Gro;
use crate::daemon::node::Wanted;
use crate::dataplane::rescue;
use crate::dataplane::view::View;
use crate::flannel::backend::{Tunnel, Wire};
use crate::flannel::config::NetworkConfig;

impl Kernel {
    pub(super) async fn hold_port(&mut self, network: &NetworkConfig) -> anyhow::Result<()> {
        let Some(tunnel) = network.backend.tunnel() else {
            return Ok(());
        };
        if self.fast_path.gro == Gro::Anchor {
            return Ok(());
        }
        let options = rescue::Options {
            port: tunnel.port.unwrap_or(0),
            wire: tunnel.wire,
            source_check: self.source_check,
            bpffs: self.bpffs.clone(),
            network: self.network.clone(),
        };
        Ok(self.port.hold(self.dataplane.netlink(), &options).await?)
    }

    /// Programs of two networks at one port would drop each other's packets. flanneld as well ends where the port is taken.
    pub(super) async fn check_udp_port(&self, wanted: &Wanted) -> anyhow::Result<()> {
        let Some(Tunnel {
            wire: Wire::Udp,
            port: Some(port),
            ..
        }) = wanted.network.backend.tunnel()
        else {
            return Ok(());
        };
        let net = self.dataplane.netlink();
        let has_port = async |network: &str| {
            let told = View::told_of(&self.bpffs, net, network).await;
            told.is_some_and(|told| told.port == port)
        };
        for other in &self.facts.others_udp {
            // Who has it already is not to go for who comes later.
            if has_port(other).await && !has_port(&self.network).await {
                bail!(
                    "UDP port {port} is that of the network {other} on this node: give one of the two another Port"
                );
            }
        }
        Ok(())
    }
}
