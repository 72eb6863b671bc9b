//! Whom the node reaches before this agent has done anything: the leases behind what an earlier one pinned and routed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use flannel_common::maps;
use ipnet::{IpNet, Ipv4Net};

use crate::base::mac::MacAddr;
use crate::dataplane::view::View;
use crate::flannel::backend::Wire;
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::{LeaseAttrs, Leases};
use crate::node::net::{Netlink, PROTOCOL, Route, wireguard};
use crate::node::wireguard::DEVICE;
use crate::reconcile::desired::TUNNEL;

/// As far as it can be read; another layout of the maps says nothing.
pub(super) async fn reached(
    net: &Netlink,
    bpffs: &Path,
    name: &str,
    config: &NetworkConfig,
) -> Leases {
    let leases = match config.backend.tunnel() {
        Some(tunnel) => {
            let view = View::open(bpffs, Some(name));
            let peers = view.and_then(|view| view.peers()).unwrap_or_default();
            by_peers(tunnel.wire, peers)
        }
        None => match config.backend.wireguard() {
            Some(_) => by_keys(wireguard::read(DEVICE).ok().flatten().unwrap_or_default()),
            None => by_routes(net.routes().await.unwrap_or_default()),
        },
    };
    let inside = |subnet: &Ipv4Net| config.network.contains(subnet);
    let leases = leases.into_iter().filter(|(subnet, _)| inside(subnet));
    leases.collect::<BTreeMap<_, _>>().into()
}

fn by_peers(wire: Wire, peers: BTreeMap<Ipv4Net, maps::Peer>) -> Vec<(Ipv4Net, LeaseAttrs)> {
    let lease = |(subnet, peer): (Ipv4Net, maps::Peer)| {
        let public_ip = peer.public_ip.into();
        let has_mac = peer.vtep_mac != [0; 6];
        // Not those of host-gw, or of another tunnel, which this network had before.
        let attrs = match wire {
            Wire::Vxlan { vni } if has_mac => {
                LeaseAttrs::vxlan(public_ip, vni, MacAddr(peer.vtep_mac))
            }
            Wire::Udp if !has_mac && peer.kind != maps::PEER_DIRECT => LeaseAttrs::udp(public_ip),
            // A peer on the same link is reached without the tunnel, and has such a lease as well.
            Wire::Ipip if !has_mac => LeaseAttrs::ipip(public_ip),
            Wire::Vxlan { .. } | Wire::Udp | Wire::Ipip => return None,
        };
        Some((subnet, attrs))
    };
    peers.into_iter().filter_map(lease).collect()
}

fn by_routes(routes: Vec<Route>) -> Vec<(Ipv4Net, LeaseAttrs)> {
    let ours = routes
        .into_iter()
        .filter(|route| route.protocol == PROTOCOL);
    let lease = |route: Route| {
        let path = route.paths.first()?;
        // Those into a tunnel name no peer.
        let peer = path.gateway.filter(|gateway| *gateway != TUNNEL)?;
        Some((route.destination, LeaseAttrs::host_gw(peer)))
    };
    ours.filter_map(lease).collect()
}

/// Where a peer was last heard may not be what its lease says, which comes soon.
fn by_keys(device: wireguard::State) -> Vec<(Ipv4Net, LeaseAttrs)> {
    let leases = device.peers.into_iter().flat_map(|(key, peer)| {
        let nets = peer.allowed.into_iter();
        nets.filter_map(move |net| match (net, peer.endpoint?) {
            (IpNet::V4(subnet), SocketAddr::V4(at)) => Some((
                subnet,
                LeaseAttrs::wireguard(*at.ip(), Some(key), at.port()),
            )),
            _ => None,
        })
    });
    leases.collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::base::key::PublicKey;
    use crate::node::net::Path;

    fn peer(vtep_mac: [u8; 6]) -> maps::Peer {
        maps::Peer {
            public_ip: [192, 0, 2, 2],
            next_hop: [192, 0, 2, 254],
            vtep_mac,
            kind: maps::PEER_DIRECT,
            narrow: 0,
        }
    }

    #[test]
    fn peers_of_a_tunnel_are_leases_as_they_were() {
        let (subnet, other) = (
            "10.1.2.0/24".parse().unwrap(),
            "10.1.3.0/24".parse().unwrap(),
        );
        let mac = [2, 0, 0, 0, 0, 2];
        let peers = BTreeMap::from([(subnet, peer(mac)), (other, peer([0; 6]))]);
        let lease = LeaseAttrs::vxlan(Ipv4Addr::new(192, 0, 2, 2), 7, MacAddr(mac));
        assert_eq!(by_peers(Wire::Vxlan { vni: 7 }, peers), [(subnet, lease)]);
    }

    #[test]
    fn peers_of_a_wireguard_device_are_leases() {
        let key = PublicKey([7; 32]);
        let peer = |endpoint: &str, allowed: &[&str]| wireguard::PeerState {
            endpoint: endpoint.parse().ok(),
            allowed: allowed.iter().map(|net| net.parse().unwrap()).collect(),
            ..wireguard::PeerState::default()
        };
        let known = peer("192.0.2.2:51820", &["10.1.2.0/24", "fd00::/64"]);
        let silent = peer("", &["10.1.3.0/24"]);
        let device = wireguard::State {
            peers: [(key, known), (PublicKey([8; 32]), silent)].into(),
            ..wireguard::State::default()
        };
        let lease = LeaseAttrs::wireguard([192, 0, 2, 2].into(), Some(key), 51_820);
        assert_eq!(by_keys(device), [("10.1.2.0/24".parse().unwrap(), lease)]);
    }

    #[test]
    fn routes_of_ours_are_leases_of_host_gw() {
        let gateway = Ipv4Addr::new(192, 0, 2, 2);
        let route = |subnet: &str, gateway, protocol| Route {
            destination: subnet.parse().unwrap(),
            paths: vec![Path {
                index: 2,
                gateway,
                dead: false,
            }],
            source: None,
            metric: 0,
            protocol,
            mtu: None,
        };
        let routes = vec![
            route("10.1.2.0/24", Some(gateway), PROTOCOL),
            route("10.1.3.0/24", Some(gateway), PROTOCOL + 1),
            route("10.1.4.0/24", None, PROTOCOL),
            route("10.1.0.0/16", Some(TUNNEL), PROTOCOL),
        ];
        let lease = LeaseAttrs::host_gw(gateway);
        assert_eq!(by_routes(routes), [("10.1.2.0/24".parse().unwrap(), lease)]);
    }
}
