//! The peers pinged, all at once: through the tunnel, and beside it with packets as long as its own.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeFrom;
use std::thread;

use flannel_common::header::PROTO_IPIP;
use flannel_common::maps::{PEER_DIRECT, PEER_STACK, Peer as Entry};
use ipnet::{IpNet, Ipv4Net};

use super::end::{End, Peer, SIZE};
use super::through::{Answers, Carrier};
use super::{Patient, Report, paths, through};
use crate::dataplane::view::{Told, View};
use crate::flannel::backend::Wire;
use crate::node::net::wireguard::{PeerState, State};
use crate::node::net::{PROTOCOL, Route};
use crate::node::path_mtu::{Found, probe};
use crate::reconcile::desired::TUNNEL;

/// More are a sample.
const ASKED: usize = 256;

/// VNI and port as flannel demands them of networks with Windows nodes.
const WINDOWS: (RangeFrom<u32>, u16) = (4096.., 4789);

/// Whom to ask and how.
struct Questions {
    end: Option<End>,
    tunnelled: Vec<Peer>,
    /// Reached without a tunnel.
    direct: Vec<Peer>,
    /// Of the tunnel's longest packets with its headers, if the ways have to carry these whole; bytes.
    whole: Option<u32>,
}

/// Behind a tunnel of ours, or on a link with this node.
pub(super) async fn check(patient: &Patient<'_>, view: &View, told: &Told, report: &mut Report) {
    let Ok(peers) = view.peers() else {
        return;
    };
    let routes = patient.net.routes().await.unwrap_or_default();
    let beside = beside_the_tunnel(&routes);
    let (direct, tunnelled) = by_way(peers.iter().take(ASKED), told.wire.is_some(), &beside);
    let questions = Questions {
        end: End::of_device(patient, told.flannel_index),
        tunnelled,
        direct,
        whole: told.wire.map(|wire| told.overlay_mtu + wire.overhead()),
    };
    let name = match told.wire {
        Some(Wire::Ipip) => format!("IP protocol {PROTO_IPIP} (ipip)"),
        _ => format!("UDP port {}", told.port),
    };
    let carrier = Carrier {
        name,
        may_be_windows: WINDOWS.0.contains(&told.vni) && told.port == WINDOWS.1,
    };
    questions.ask(&carrier, peers.len(), report);
}

/// Whither our routes lead by a peer's own address.
fn beside_the_tunnel(routes: &[Route]) -> BTreeSet<Ipv4Net> {
    let ours = routes.iter().filter(|route| route.protocol == PROTOCOL);
    let direct = ours.filter(|route| {
        let mut gateways = route.paths.iter().filter_map(|path| path.gateway);
        gateways.any(|via| via != TUNNEL)
    });
    direct.map(|route| route.destination).collect()
}

/// Those without a tunnel, and those behind it. A peer that is the stack's is one or the other, which the maps do not say; without a
/// `tunnel` there are none behind it.
fn by_way<'a>(
    peers: impl Iterator<Item = (&'a Ipv4Net, &'a Entry)>,
    tunnel: bool,
    beside: &BTreeSet<Ipv4Net>,
) -> (Vec<Peer>, Vec<Peer>) {
    let (mut direct, mut tunnelled) = (Vec::new(), Vec::new());
    for (subnet, entry) in peers {
        let peer = Peer::new(*subnet, entry.public_ip.into());
        match entry.kind {
            PEER_DIRECT => direct.push(peer),
            PEER_STACK if !tunnel || beside.contains(subnet) => direct.push(peer),
            _ if tunnel => tunnelled.push(peer),
            // By wireguard: they are asked with its device.
            _ => {}
        }
    }
    (direct, tunnelled)
}

/// Behind the kernel's WireGuard device `index`.
pub(super) fn check_sealed(patient: &Patient<'_>, index: u32, device: &State, report: &mut Report) {
    let peer = |peer: &PeerState| {
        let IpAddr::V4(node) = peer.endpoint?.ip() else {
            return None;
        };
        let mut subnets = peer.allowed.iter().filter_map(|net| match net {
            IpNet::V4(subnet) => Some(*subnet),
            IpNet::V6(_) => None,
        });
        Some(Peer::new(subnets.next()?, node))
    };
    let peers: Vec<Peer> = device.peers.values().filter_map(peer).collect();
    let questions = Questions {
        end: End::of_device(patient, index),
        tunnelled: peers.iter().take(ASKED).copied().collect(),
        direct: Vec::new(),
        whole: None,
    };
    let carrier = Carrier {
        name: format!("UDP port {}", device.port),
        may_be_windows: false,
    };
    questions.ask(&carrier, peers.len(), report);
}

impl Questions {
    /// All at the same time: each lot waits for those that do not answer.
    fn ask(&self, carrier: &Carrier, all: usize, report: &mut Report) {
        let nodes = |group: &[Peer]| -> Vec<Ipv4Addr> {
            let nodes: BTreeSet<Ipv4Addr> = group.iter().map(|peer| peer.node).collect();
            nodes.into_iter().collect()
        };
        let (tunnelled, direct) = (nodes(&self.tunnelled), nodes(&self.direct));
        let size = self.whole.unwrap_or(SIZE);
        let (through, beside, without) = thread::scope(|scope| {
            let through = scope.spawn(|| self.through());
            let beside = scope.spawn(|| probe(&tunnelled, size));
            let without = probe(&direct, SIZE);
            (joined(through), joined(beside), without)
        });
        let (beside, without) = match (beside, without) {
            (Ok(beside), Ok(without)) => (beside, without),
            (Err(error), _) | (_, Err(error)) => {
                let what = format!("cannot ping the peers: {error}");
                return report.warning(what, "run this as root");
            }
        };
        let through = through.unwrap_or_else(|error| {
            through::unasked(&error, report);
            Vec::new()
        });
        let answers = |found: Option<&Found>, through| Answers {
            through,
            beside: found.is_some_and(|it| *it != Found::Silent),
        };
        let by_tunnel = self.tunnelled.iter().zip(through);
        let by_tunnel = by_tunnel
            .map(|(peer, through)| (*peer, answers(beside.get(&peer.node), Some(through))));
        let direct = self.direct.iter();
        let direct = direct.map(|peer| (*peer, answers(without.get(&peer.node), None)));
        let said: Vec<_> = by_tunnel.chain(direct).collect();
        through::judge(carrier, all, &said, report);
        if self.whole.is_some() {
            let is_mute = |node: &Ipv4Addr| {
                let mut of_node = said.iter().filter(|(peer, _)| peer.node == *node);
                of_node.any(|(_, answers)| answers.is_mute())
            };
            // What the way to somebody carries who answers nothing is not the question.
            let beside = beside.into_iter().filter(|(node, _)| !is_mute(node));
            paths::judge(&beside.collect(), size, report);
        }
    }

    fn through(&self) -> io::Result<Vec<bool>> {
        if self.tunnelled.is_empty() {
            return Ok(Vec::new());
        }
        let none = || io::Error::other("the tunnel's device has no address of its own");
        self.end.ok_or_else(none)?.ask(&self.tunnelled)
    }
}

fn joined<T>(asked: thread::ScopedJoinHandle<'_, io::Result<T>>) -> io::Result<T> {
    asked
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use flannel_common::maps::PEER_VXLAN;

    use super::*;
    use crate::node::net::Path;

    fn subnet(third: u8) -> Ipv4Net {
        Ipv4Net::new_assert([10, 244, third, 0].into(), 24)
    }

    fn route(third: u8, gateway: Ipv4Addr, protocol: u8) -> Route {
        let path = Path {
            index: 2,
            gateway: Some(gateway),
            dead: false,
        };
        Route {
            destination: subnet(third),
            paths: vec![path],
            source: None,
            metric: 0,
            protocol,
            mtu: None,
        }
    }

    #[test]
    fn peers_that_are_the_stacks_are_asked_by_their_way() {
        let node = Ipv4Addr::new(192, 0, 2, 9);
        let entry = |kind| Entry {
            public_ip: node.octets(),
            kind,
            ..Entry::zeroed()
        };
        let kinds = [PEER_VXLAN, PEER_DIRECT, PEER_STACK, PEER_STACK, PEER_STACK];
        let peers: Vec<_> = (1..)
            .map(subnet)
            .zip(kinds.iter().map(|kind| entry(*kind)))
            .collect();
        let routes = [
            route(1, TUNNEL, PROTOCOL),
            route(2, node, PROTOCOL),
            route(3, TUNNEL, PROTOCOL),
            route(4, node, PROTOCOL),
            route(5, node, 3),
        ];
        let beside = beside_the_tunnel(&routes);
        let third = |group: Vec<Peer>| -> Vec<u8> {
            let subnets = group.iter().map(|peer| peer.subnet.network().octets()[2]);
            subnets.collect()
        };
        let asked = |tunnel| {
            let peers = peers.iter().map(|(subnet, entry)| (subnet, entry));
            let (direct, tunnelled) = by_way(peers, tunnel, &beside);
            (third(direct), third(tunnelled))
        };
        assert_eq!(asked(true), (vec![2, 4], vec![1, 3, 5]));
        assert_eq!(asked(false), (vec![2, 3, 4, 5], vec![]));
    }
}
