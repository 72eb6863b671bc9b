//! What the node publishes about itself.

use crate::base::mac::{self, MacAddr};
use crate::flannel::backend::Routed;
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::LeaseAttrs;
use crate::node::direct;
use crate::node::net::Netlink;
use crate::node::uplink::Uplink;
use crate::node::wireguard;
use crate::reconcile::observe;

/// What this node publishes about itself; see [`Node::attrs`](crate::daemon::node::Node::attrs).
///
/// # Errors
/// An uplink that the backend cannot use, or a kernel that does not answer.
pub(crate) async fn attrs(
    net: &Netlink,
    network: &NetworkConfig,
    uplink: &Uplink,
    published: Option<&LeaseAttrs>,
) -> anyhow::Result<LeaseAttrs> {
    let backend = &network.backend;
    let Some(tunnel) = backend.tunnel() else {
        if backend.routed() == Routed::All {
            direct::check_uplink(uplink)?;
        }
        if let Some(options) = backend.wireguard() {
            let key = wireguard::known(net).await?.map(|key| key.public());
            return Ok(LeaseAttrs::wireguard(uplink.public_ip, key, options.port));
        }
        let attrs = backend.attrs(uplink.public_ip, MacAddr([0; 6]));
        // What a command of the operator's printed: nobody who only looks runs it.
        let printed = published.filter(|_| backend.commands().is_some());
        return Ok(LeaseAttrs {
            backend_data: printed.and_then(|lease| lease.backend_data.clone()),
            ..attrs
        });
    };
    let device = observe::vtep_mac(net, tunnel.wire).await?;
    // A lease of another backend, or one that somebody damaged, just has no MAC to keep.
    let published = published.and_then(|attrs| backend.vtep_mac(attrs).ok());
    let mac = mac::choose(device, published);
    Ok(backend.attrs(uplink.public_ip, mac))
}
