//! Peers whose own address our routes would take away: what is sent to them in the tunnel would enter the tunnel again, or end at a pod
//! that knows nothing of it. Whoever writes a lease may name any address in it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::Inputs;
use crate::dataplane::Peer;
use crate::flannel::backend::Wire;
use crate::node::net::RouteTo;

/// By subnet, why. What the routing table has from us does not count, only what it has besides and what all of `table` would have: two
/// that hide each other stay out, and do not come and go.
pub(super) fn hidden(
    inputs: &Inputs<'_>,
    table: &BTreeMap<Ipv4Net, Peer>,
) -> BTreeMap<Ipv4Net, String> {
    let network = inputs.config.network;
    let all = table.iter();
    let inside = all.filter(|(_, peer)| network.contains(&peer.public_ip));
    let why = |(subnet, peer): (&Ipv4Net, &Peer)| {
        let ip = peer.public_ip;
        let length = length(inputs.facts.ways.get(&ip))?;
        let text = if inputs.subnet.contains(&ip) && inputs.subnet.prefix_len() >= length {
            let own = inputs.subnet;
            format!("PublicIP {ip} is inside this node's own subnet {own}: packets to it stay here")
        } else {
            let cover = cover(inputs, table, ip)?;
            if cover.prefix_len() <= length {
                return None;
            }
            format!(
                "PublicIP {ip} is inside {cover}, to which the network's own route leads: give that node an address outside, or a \
                 route to it that is narrower"
            )
        };
        Some((*subnet, text))
    };
    inside.filter_map(why).collect()
}

/// Of the prefix of the route that would be there without ours; `None` if ours are not asked before it.
fn length(way: Option<&RouteTo>) -> Option<u8> {
    let Some(way) = way else { return Some(0) };
    match way.ours {
        true => Some(0),
        false => way.in_main,
    }
}

/// The narrowest of our routes to an address in Network.
fn cover(inputs: &Inputs<'_>, table: &BTreeMap<Ipv4Net, Peer>, ip: Ipv4Addr) -> Option<Ipv4Net> {
    let network = inputs.config.network;
    let tunnel = inputs.config.backend.tunnel()?;
    let nets = std::iter::successors(Some(Ipv4Net::from(ip)), Ipv4Net::supernet);
    let mut nets = nets.take_while(|net| net.prefix_len() >= network.prefix_len());
    let leased = nets.find(|net| table.contains_key(net));
    leased.or_else(|| (tunnel.wire == Wire::Udp).then_some(network))
}
