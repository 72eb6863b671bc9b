//! The kernel's WireGuard device.

use std::time::Duration;

use super::anothers;
use crate::base::wall::Moment;
use crate::dataplane::{Bpf, Life, life};
use crate::node::mark;
use crate::node::net::{Kind, Link, NetError, Netlink, wireguard};
use crate::reconcile::actual::{SealedState, WireGuardDevice, WireGuardState};
use crate::reconcile::desired::Node;

pub(super) async fn device(
    net: &Netlink,
    bpf: &Bpf,
    node: &Node,
    links: &[Link],
) -> Result<WireGuardDevice, NetError> {
    let Some(wanted) = &node.wireguard else {
        return Ok(WireGuardDevice::Absent);
    };
    let Some(link) = links.iter().find(|link| link.name == wanted.name) else {
        return Ok(WireGuardDevice::Absent);
    };
    let life = |network: &str| life(bpf.bpffs(), network);
    if let Some(why) = is_foreign(link, &wanted.alias, &life) {
        return Ok(WireGuardDevice::Foreign { why });
    }
    // It may go between two looks.
    let Some(state) = wireguard::read(&wanted.name)? else {
        return Ok(WireGuardDevice::Absent);
    };
    let addresses = net.addresses().await?;
    let held = addresses.iter().filter(|held| held.index == link.index);
    let now = Moment::now().unix();
    let peers = state.peers.into_iter().map(|(key, peer)| {
        let sealed = SealedState {
            endpoint: peer.endpoint,
            heard: is_recent(peer.handshake, now),
            allowed: peer.allowed,
            psk: peer.psk,
            keepalive: peer.keepalive,
        };
        (key, sealed)
    });
    Ok(WireGuardDevice::There(WireGuardState {
        index: link.index,
        aliased: link.alias.is_some(),
        mtu: link.mtu,
        up: link.up,
        addresses: held.map(|address| address.net).collect(),
        public_key: state.public_key,
        port: state.port,
        peers: peers.collect(),
    }))
}

/// For how long keys are used that two peers have agreed on (`REJECT_AFTER_TIME` of drivers/net/wireguard): who moves is
/// followed meanwhile, whoever of the two speaks first.
const SESSION: Duration = Duration::from_mins(3);

/// The kernel tells a handshake's time by the wall clock alone. One that was set since makes it old, or still to come; such
/// a peer is looked for where its lease has it.
fn is_recent(handshake: Option<Duration>, now: Duration) -> bool {
    let age = handshake.and_then(|at| now.checked_sub(at));
    age.is_some_and(|age| age < SESSION)
}

/// flanneld's device has no alias, and is taken as it is: its peers notice nothing.
fn is_foreign(link: &Link, alias: &str, life: &dyn Fn(&str) -> Life) -> Option<String> {
    let is_wireguard = matches!(&link.kind, Kind::Other(kind) if kind == "wireguard");
    match (&link.alias, mark::network_of(link)) {
        _ if !is_wireguard => Some("it is no WireGuard device: rename it".to_owned()),
        (None, _) => None,
        (Some(held), _) if held == alias => None,
        (_, Some(network)) => Some(anothers(
            network,
            life(network),
            "one network of a node has the backend wireguard",
        )),
        (Some(_), None) => {
            Some("it is a WireGuard device with somebody else's alias: rename it".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::node::net::fixtures::link;

    #[test]
    fn a_peer_was_heard_while_its_keys_are_used() {
        let now = Duration::from_hours(24);
        let before = |seconds| Some(now - Duration::from_secs(seconds));
        assert!(is_recent(before(0), now) && is_recent(before(179), now));
        assert!(!is_recent(before(180), now) && !is_recent(None, now));
        let to_come = now + Duration::from_secs(1);
        assert!(!is_recent(Some(to_come), now));
    }

    #[rstest]
    #[case("wireguard", None, None)]
    #[case("wireguard", Some("flannel-ebpf:net"), None)]
    #[case("wireguard", Some("flannel-ebpf:other"), Some("the network other"))]
    #[case("wireguard", Some("mine"), Some("somebody else's alias"))]
    #[case("dummy", None, Some("no WireGuard device"))]
    fn whose_a_device_is(
        #[case] kind: &str,
        #[case] alias: Option<&str>,
        #[case] refused: Option<&str>,
    ) {
        let link = Link {
            kind: Kind::Other(kind.to_owned()),
            alias: alias.map(str::to_owned),
            ..link(7, "flannel-wg")
        };
        let why = is_foreign(&link, "flannel-ebpf:net", &|_| Life::Lives);
        assert_eq!(why.is_some(), refused.is_some(), "{why:?}");
        assert!(
            why.unwrap_or_default()
                .contains(refused.unwrap_or_default())
        );
    }
}
