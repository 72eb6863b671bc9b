//! The kernel's WireGuard device.

use nix::errno::Errno;

use crate::base::key::PrivateKey;
use crate::dataplane::DataplaneError;
use crate::node::net::{NetError, Netlink, Outcome, wireguard};
use crate::reconcile::desired::WireGuard;
use crate::reconcile::plan::SealedChanges;

pub(super) async fn create(net: &Netlink, device: &WireGuard) -> Result<(), DataplaneError> {
    match net.create_wireguard(&device.name, device.mtu).await {
        Ok(Outcome::Exists) => {
            let action = format!("create {}", device.name);
            Err(NetError::refused(action, Errno::EEXIST).into())
        }
        Ok(_) => Ok(()),
        Err(error) if error.errno() == Some(Errno::EOPNOTSUPP) => Err(NetError::NoWireGuard.into()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn configure(
    changes: &SealedChanges,
    key: Option<&PrivateKey>,
) -> Result<(), DataplaneError> {
    let wanted = changes.public_key;
    let key = key.filter(|key| Some(key.public()) == wanted);
    if wanted.is_some() && key.is_none() {
        let action = format!("give {} its key", changes.device);
        let reason = "it is not the one of this node's lease: restart the agent".to_owned();
        return Err(NetError::Failed { action, reason }.into());
    }
    let put = changes.put.iter().map(|(key, put)| {
        let peer = wireguard::PeerChange {
            endpoint: put.towards,
            allowed: put.peer.allowed.clone(),
            psk: put.peer.psk,
            keepalive: put.peer.keepalive,
        };
        (*key, peer)
    });
    let change = wireguard::Change {
        private_key: key.cloned(),
        port: changes.port,
        remove: changes.remove.clone(),
        put: put.collect(),
    };
    Ok(wireguard::configure(&changes.device, &change)?)
}
