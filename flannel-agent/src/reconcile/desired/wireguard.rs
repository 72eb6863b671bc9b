//! The kernel's WireGuard device, and whom it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use ipnet::Ipv4Net;
use serde::Serialize;

use super::peers::{Peers, Sealed, check_address};
use super::{Inputs, Outlets};
use crate::base::key::PublicKey;
use crate::dataplane::outlets::Sources;
use crate::flannel::backend::WireGuardOptions;
use crate::flannel::lease::LeaseAttrs;
use crate::node::mark;
use crate::node::wireguard::DEVICE;

/// The device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WireGuard {
    pub name: String,
    pub alias: String,
    pub mtu: u32,
    /// UDP port at which it listens.
    pub port: u16,
    /// `None`: a key that is still to be made.
    pub public_key: Option<PublicKey>,
}

pub(super) fn device(inputs: &Inputs<'_>, mtu: u32) -> Option<WireGuard> {
    let options = inputs.config.backend.wireguard()?;
    Some(WireGuard {
        name: DEVICE.to_owned(),
        alias: mark::alias(inputs.network),
        mtu,
        port: options.port,
        public_key: inputs.public_key,
    })
}

/// What leaves by the device as it is to be masqueraded: as this node, with the address that the device has.
pub(super) fn outlet(inputs: &Inputs<'_>, outlets: &Outlets) -> BTreeMap<u32, Sources> {
    let mut all = outlets.by_index();
    if inputs.snat.is_some() && inputs.config.backend.wireguard().is_some() {
        let index = inputs.facts.wireguard;
        all.extend(index.map(|index| (index, Sources::only(inputs.subnet.network()))));
    }
    all
}

/// A node with several subnets is one peer: the kernel knows peers by their keys.
pub(super) fn peers(inputs: &Inputs<'_>, options: &WireGuardOptions) -> Peers {
    let mut peers = Peers::default();
    for (subnet, attrs) in inputs.leases.iter() {
        if *subnet == inputs.subnet {
            continue;
        }
        let known = peer(inputs, options, *subnet, attrs);
        match known {
            Ok((key, peer)) => enter(&mut peers.sealed, key, peer),
            Err(why) => {
                peers.ignored.insert(*subnet, why);
            }
        }
    }
    peers
}

/// Whoever has the private key shows where he is by the first packet; until then the last lease to come is believed.
fn enter(peers: &mut BTreeMap<PublicKey, Sealed>, key: PublicKey, peer: Sealed) {
    let Some(known) = peers.get_mut(&key) else {
        peers.insert(key, peer);
        return;
    };
    if known.endpoint != peer.endpoint {
        known.elsewhere.insert(peer.endpoint);
    }
    known.allowed.extend(peer.allowed);
}

fn peer(
    inputs: &Inputs<'_>,
    options: &WireGuardOptions,
    subnet: Ipv4Net,
    attrs: &LeaseAttrs,
) -> Result<(PublicKey, Sealed), String> {
    inputs.config.check_peer(subnet, inputs.subnet)?;
    let data = attrs.wireguard_data()?;
    check_address(inputs, attrs.public_ip)?;
    if Some(data.public_key) == inputs.public_key {
        return Err("its PublicKey is this node's own".to_owned());
    }
    let peer = Sealed {
        endpoint: SocketAddrV4::new(attrs.public_ip, data.port.unwrap_or(options.port)),
        elsewhere: BTreeSet::new(),
        allowed: [subnet].into(),
        psk: options.psk,
        keepalive: options.keepalive,
    };
    Ok((data.public_key, peer))
}
