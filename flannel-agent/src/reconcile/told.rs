//! Where WireGuard was told to look for its peers: they may move since, and the kernel follows them.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4};

use super::actual::{WireGuardDevice, WireGuardState};
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

    /// Peers that a former agent, or flanneld, told of the same, and such as have moved since and proved it: from then on they may be
    /// silent for as long as they like, for whatever is between may still know their way.
    pub(super) fn saw(&mut self, peers: &BTreeMap<PublicKey, Sealed>, device: &WireGuardDevice) {
        let WireGuardDevice::There(state) = device else {
            return;
        };
        for (key, peer) in peers {
            let Some((at, heard)) = held_at(state, key) else {
                continue;
            };
            match at {
                SocketAddr::V4(at) if peer.may_be_at(at.into()) => {
                    self.0.entry(*key).or_insert(at);
                }
                _ if heard => {
                    self.0.entry(*key).or_insert(peer.endpoint);
                }
                _ => {}
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

/// Where a device has a peer, and whether it proved to be there a moment ago.
fn held_at(state: &WireGuardState, key: &PublicKey) -> Option<(SocketAddr, bool)> {
    let held = state.peers.get(key)?;
    Some((held.endpoint?, held.heard))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::key::Psk;
    use crate::reconcile::actual::SealedState;
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
        found(endpoint, false)
    }

    fn found(endpoint: &str, heard: bool) -> WireGuardDevice {
        let held = SealedState {
            endpoint: endpoint.parse().ok(),
            heard,
            ..SealedState::default()
        };
        WireGuardDevice::There(WireGuardState {
            peers: [(PEER, held)].into(),
            ..WireGuardState::default()
        })
    }

    fn seen(told: &Told, endpoint: &str) -> (Option<SocketAddr>, bool) {
        let mut device = found(endpoint, true);
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

    /// Behind NAT, at the agent's start. That nothing is heard of it later is no reason to look for it elsewhere.
    #[test]
    fn who_had_moved_and_was_heard_stays_where_he_is() {
        let [lease_s, other] = ["192.0.2.2:51820", "203.0.113.9:7"];
        let sealed = [(PEER, lease(lease_s))].into();
        let mut told = Told::default();
        told.saw(&sealed, &found(other, true));
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
