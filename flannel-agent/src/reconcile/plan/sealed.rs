//! The difference between the peers that a WireGuard device has and those that it should have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddrV4;

use ipnet::IpNet;
use serde::Serialize;

use crate::base::key::PublicKey;
use crate::reconcile::actual::{SealedState, WireGuardState};
use crate::reconcile::desired::{Sealed, WireGuard};

/// So many changes are named one by one; more are counted.
const NAMED: usize = 4;

/// What a device is told. What is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SealedChanges {
    pub device: String,
    /// It gets the private key of this one.
    pub public_key: Option<PublicKey>,
    pub port: Option<u16>,
    /// These go first: a subnet is one peer's.
    pub remove: BTreeSet<PublicKey>,
    pub put: BTreeMap<PublicKey, SealedPut>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SealedPut {
    #[serde(flatten)]
    pub peer: Sealed,
    /// Where it is to be looked for, wherever it was heard last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub towards: Option<SocketAddrV4>,
}

impl SealedChanges {
    /// From what the device has to what is wanted.
    pub(super) fn between(
        wanted: &WireGuard,
        peers: &BTreeMap<PublicKey, Sealed>,
        held: &WireGuardState,
    ) -> Option<Self> {
        let put = peers.iter().filter_map(|(key, peer)| {
            let held = held.peers.get(key);
            let is_found = held.is_some_and(|held| is_found(peer, held));
            let towards = (!is_found).then_some(peer.endpoint);
            let is_so = held.is_some_and(|held| *held == SealedState::of(peer, held));
            (towards.is_some() || !is_so).then(|| (*key, put(peer, towards)))
        });
        let gone = held.peers.keys().filter(|key| !peers.contains_key(key));
        let changes = Self {
            device: wanted.name.clone(),
            public_key: wanted
                .public_key
                .filter(|_| held.public_key != wanted.public_key),
            port: Some(wanted.port).filter(|port| *port != held.port),
            remove: gone.copied().collect(),
            put: put.collect(),
        };
        (!changes.is_empty()).then_some(changes)
    }

    /// What has to change after a change of leases alone.
    pub(in crate::reconcile) fn of_leases(
        device: &str,
        before: &BTreeMap<PublicKey, Sealed>,
        now: &BTreeMap<PublicKey, Sealed>,
    ) -> Option<Self> {
        let put = now.iter().filter_map(|(key, peer)| {
            let before = before.get(key);
            (before != Some(peer)).then(|| (*key, put(peer, new_endpoint(before, peer))))
        });
        let gone = before.keys().filter(|key| !now.contains_key(key));
        let changes = Self {
            device: device.to_owned(),
            remove: gone.copied().collect(),
            put: put.collect(),
            ..Self::default()
        };
        (!changes.is_empty()).then_some(changes)
    }

    fn is_empty(&self) -> bool {
        self.public_key.is_none()
            && self.port.is_none()
            && self.remove.is_empty()
            && self.put.is_empty()
    }
}

fn put(peer: &Sealed, towards: Option<SocketAddrV4>) -> SealedPut {
    SealedPut {
        peer: peer.clone(),
        towards,
    }
}

/// Whether the kernel looks for a peer where a lease has it, or where it proved to be a moment ago.
fn is_found(peer: &Sealed, held: &SealedState) -> bool {
    held.endpoint
        .is_some_and(|at| held.heard || peer.may_be_at(at))
}

/// Where a peer is to be looked for that came, or whose leases name other endpoints than before: at the newest.
fn new_endpoint(before: Option<&Sealed>, now: &Sealed) -> Option<SocketAddrV4> {
    let Some(before) = before else {
        return Some(now.endpoint);
    };
    let known: BTreeSet<_> = before.endpoints().collect();
    let mut endpoints = now.endpoints();
    if let Some(new) = endpoints.find(|endpoint| !known.contains(endpoint)) {
        return Some(new);
    }
    (now.endpoints().count() < known.len()).then_some(now.endpoint)
}

impl SealedState {
    /// As the peer is once the device was told, but for where it is.
    pub(super) fn of(peer: &Sealed, held: &Self) -> Self {
        Self {
            endpoint: held.endpoint,
            heard: held.heard,
            allowed: peer.allowed.iter().copied().map(IpNet::from).collect(),
            psk: peer.psk,
            keepalive: peer.keepalive,
        }
    }
}

impl fmt::Display for SealedChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (put, removed) = (self.put.len(), self.remove.len());
        let key = self.public_key.iter().map(|key| format!("the key {key}"));
        let port = self.port.iter().map(|port| format!("UDP port {port}"));
        let mut words: Vec<String> = key.chain(port).collect();
        if put + removed > NAMED {
            words.push(format!("{put} peers, and {removed} that go"));
        } else {
            words.extend(self.put.values().map(|SealedPut { peer, .. }| {
                let allowed: Vec<_> = peer.allowed.iter().map(ToString::to_string).collect();
                let endpoints: Vec<_> = peer.endpoints().map(|at| at.to_string()).collect();
                format!(
                    "the peer {} with {}",
                    endpoints.join(" or "),
                    allowed.join(", ")
                )
            }));
            let gone = self.remove.iter();
            words.extend(gone.map(|key| format!("that the peer {key} goes")));
        }
        write!(f, "tell {}: {}", self.device, words.join("; "))
    }
}
