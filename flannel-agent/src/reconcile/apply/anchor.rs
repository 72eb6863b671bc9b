//! The device that stands for the VXLAN port.

use nix::errno::Errno;

use crate::dataplane::{DataplaneError, rescue};
use crate::node::mark;
use crate::node::net::{NetError, Netlink, sysctl};
use crate::reconcile::desired::Anchor;

/// Makes it, or what an earlier agent did not live to do.
pub(super) async fn create(net: &Netlink, anchor: &Anchor) -> Result<(), DataplaneError> {
    let lower = net.link(&anchor.lower).await?;
    let lower = lower.ok_or_else(|| NetError::NoInterface(anchor.lower.clone()))?;
    net.create_metadata_vxlan(&anchor.name, anchor.port, lower.index)
        .await?;
    let made = net.link(&anchor.name).await?;
    let made = made.ok_or_else(|| NetError::NoInterface(anchor.name.clone()))?;
    for (key, value) in sysctls(&anchor.name) {
        // It would only be tidier: what the kernel says of itself gets nowhere, and what comes in is hidden from it.
        if let Err(error) = sysctl::set(&key, value) {
            tracing::warn!("{error}");
        }
    }
    // Last: the mark says that nothing is missing.
    net.set_alias(made.index, mark::ANCHOR).await?;
    Ok(())
}

/// No IPv6, and so nothing that the kernel would say by itself.
fn sysctls(device: &str) -> [(String, &'static str); 2] {
    let ipv6 = |key| format!("net/ipv6/conf/{device}/{key}");
    // 1: no link-local address.
    [(ipv6("disable_ipv6"), "1"), (ipv6("addr_gen_mode"), "1")]
}

/// Why it does not come up.
pub(super) async fn refused(net: &Netlink, anchor: &Anchor, error: NetError) -> DataplaneError {
    if error.errno() != Some(Errno::EADDRINUSE) {
        return error.into();
    }
    DataplaneError::PortBusy {
        port: anchor.port,
        holder: rescue::holder_of(net, anchor.port).await,
    }
}
