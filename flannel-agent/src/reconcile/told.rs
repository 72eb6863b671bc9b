//! Where WireGuard was told to look for its peers: they may move since, and the kernel follows them.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4};

use super::actual::WireGuardDevice;
use super::desired::Sealed;
use super::plan::SealedChanges;
use crate::base::key::PublicKey;

#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<PublicKey, SocketAddrV4>);

impl Told {
    /// What the device has, as if nobody had moved since it was told.
    pub(super) fn overlay(&self, device: &mut WireGuardDevice) {
        let WireGuardDevice::There(state) = device else {
            return;
        };
        for (key, peer) in &mut state.peers {
            if let Some(told) = self.0.get(key) {
                peer.endpoint = Some(SocketAddr::from(*told));
                peer.heard = false;
            }
        }
    }

    /// Peers that a former agent, or flanneld, told of the same.
    pub(super) fn saw(&mut self, peers: &BTreeMap<PublicKey, Sealed>, device: &WireGuardDevice) {
        let WireGuardDevice::There(state) = device else {
            return;
        };
        for (key, peer) in peers {
            if let Some(SocketAddr::V4(at)) = state.peers.get(key).and_then(|held| held.endpoint)
                && peer.may_be_at(at.into())
            {
                self.0.entry(*key).or_insert(at);
            }
        }
    }

    pub(super) fn remember(&mut self, changes: &SealedChanges) {
        self.0.retain(|key, _| !changes.remove.contains(key));
        let put = changes.put.iter();
        self.0
            .extend(put.filter_map(|(key, put)| Some((*key, put.towards?))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::key::Psk;
    use crate::reconcile::actual::{SealedState, WireGuardState};
    use crate::reconcile::plan::SealedPut;

    const PEER: PublicKey = PublicKey([2; 32]);

    fn lease(endpoint: &str) -> Sealed {
        Sealed {
            endpoint: endpoint.parse().unwrap(),
            elsewhere: std::collections::BTreeSet::new(),
            allowed: std::collections::BTreeSet::new(),
            psk: Psk::default(),
            keepalive: 0,
        }
    }

    fn device(endpoint: &str) -> WireGuardDevice {
        let held = SealedState {
            endpoint: endpoint.parse().ok(),
            heard: true,
            ..SealedState::default()
        };
        WireGuardDevice::There(WireGuardState {
            peers: [(PEER, held)].into(),
            ..WireGuardState::default()
        })
    }

    fn seen(told: &Told, endpoint: &str) -> (Option<SocketAddr>, bool) {
        let mut device = device(endpoint);
        told.overlay(&mut device);
        let WireGuardDevice::There(state) = device else {
            panic!("{device:?}");
        };
        let held = &state.peers[&PEER];
        (held.endpoint, held.heard)
    }

    #[test]
    fn who_was_found_where_his_lease_has_him_may_move_from_then_on() {
        let [lease_s, other] = ["192.0.2.2:51820", "203.0.113.9:7"];
        let sealed = [(PEER, lease(lease_s))].into();
        let mut told = Told::default();
        told.saw(&sealed, &device(other));
        assert_eq!(seen(&told, other), (other.parse().ok(), true));
        told.saw(&sealed, &device(lease_s));
        assert_eq!(seen(&told, other), (lease_s.parse().ok(), false));
    }

    #[test]
    fn what_the_device_was_told_lasts_until_the_peer_goes() {
        let [lease_s, other] = ["192.0.2.2:51820", "203.0.113.9:7"];
        let mut told = Told::default();
        let put = |towards: Option<&str>| SealedChanges {
            put: [(
                PEER,
                SealedPut {
                    peer: lease(lease_s),
                    towards: towards.map(|at| at.parse().unwrap()),
                },
            )]
            .into(),
            ..SealedChanges::default()
        };
        told.remember(&put(Some(lease_s)));
        told.remember(&put(None));
        assert_eq!(seen(&told, other), (lease_s.parse().ok(), false));
        told.remember(&SealedChanges {
            remove: [PEER].into(),
            ..SealedChanges::default()
        });
        assert_eq!(seen(&told, other), (other.parse().ok(), true));
    }
}
