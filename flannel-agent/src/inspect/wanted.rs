//! Which packets `monitor` and `capture` are about. Chosen by the programs' side, so that the rest costs no copy.

use std::net::Ipv4Addr;

use anyhow::{Context as _, bail};
use clap::Args;
use flannel_common::event::{Filter, PEER_PREFIXES, Prefix};
use flannel_common::{cidr, maps};
use ipnet::Ipv4Net;
use nix::net::if_::if_nametoindex;

use super::look::asking;
use crate::dataplane::view::View;
use crate::node::net::Netlink;

/// Flannel's port, should the programs not say theirs.
const VXLAN_PORT: u16 = 8472;

/// Options of both commands.
#[derive(Debug, Clone, Default, Args)]
pub struct Wanted {
    /// Only packets from or to this pod (its address), inside the tunnel or not
    #[arg(long, value_name = "IP")]
    pub pod: Option<Ipv4Addr>,
    /// Only packets from or to this peer: an address or subnet, inside the tunnel or outside; of a node also those of its pods
    #[arg(long, value_name = "IP|CIDR", value_parser = net)]
    pub peer: Option<Ipv4Net>,
    /// Only TCP and UDP with this port at either end, inside the tunnel or outside
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Only at hooks of this device
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
}

fn net(text: &str) -> Result<Ipv4Net, &'static str> {
    let net = text.parse::<Ipv4Net>();
    net.or_else(|_| text.parse::<Ipv4Addr>().map(Ipv4Net::from))
        .map_err(|_| "neither an IPv4 address nor a subnet like 10.244.2.0/24")
}

impl Wanted {
    /// `snap`: of a packet so many bytes.
    pub(super) fn filter(&self, view: &View, snap: u32) -> anyhow::Result<Filter> {
        let any = Prefix {
            network: 0,
            mask: 0,
        };
        let device = self.device.as_deref().map(|name| {
            let index = if_nametoindex(name);
            index.with_context(|| format!("there is no device {name}"))
        });
        Ok(Filter {
            pod: self.pod.map_or(any, |ip| prefix(ip.into())),
            peers: match self.peer {
                None => [any; PEER_PREFIXES],
                Some(peer) => prefixes(peer, view.peers()?.iter())?,
            },
            device: device.transpose()?.unwrap_or(0),
            snap,
            port: self.port.unwrap_or(0),
            vxlan_port: match self.pod.is_some() || self.peer.is_some() || self.port.is_some() {
                true => vxlan_port(view)?,
                false => 0,
            },
        })
    }
}

fn vxlan_port(view: &View) -> anyhow::Result<u16> {
    let hooks = asking(async || {
        let net = Netlink::open()?;
        let links = net.links().await?;
        Ok(view.hooks(&net, &links).await?)
    })?;
    let told = hooks.iter().find(|hook| hook.attached);
    let told = told.map(|hook| view.told(hook)).transpose()?.flatten();
    Ok(told.map_or(VXLAN_PORT, |told| told.port))
}

/// What stands for `peer`: of a node also its subnets.
fn prefixes<'a>(
    peer: Ipv4Net,
    leases: impl Iterator<Item = (&'a Ipv4Net, &'a maps::Peer)>,
) -> anyhow::Result<[Prefix; PEER_PREFIXES]> {
    let theirs = leases
        .filter(|(_, lease)| peer.prefix_len() == 32 && lease.public_ip == peer.addr().octets())
        .map(|(subnet, _)| *subnet);
    let all: Vec<Prefix> = std::iter::once(peer).chain(theirs).map(prefix).collect();
    let mut prefixes = [Prefix::NONE; PEER_PREFIXES];
    if all.len() > prefixes.len() {
        bail!(
            "{} has {} subnets, more than can be looked for: name one of them (see `peers`)",
            peer.addr(),
            all.len() - 1
        );
    }
    prefixes[..all.len()].copy_from_slice(&all);
    Ok(prefixes)
}

fn prefix(net: Ipv4Net) -> Prefix {
    Prefix {
        network: net.network().to_bits(),
        mask: cidr::mask(net.prefix_len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(subnet: &str, public_ip: [u8; 4]) -> (Ipv4Net, maps::Peer) {
        let peer = maps::Peer {
            public_ip,
            next_hop: public_ip,
            vtep_mac: [0; 6],
            kind: maps::PEER_VXLAN,
            pad: 0,
        };
        (subnet.parse().unwrap(), peer)
    }

    fn found(peer: &str, leases: &[(Ipv4Net, maps::Peer)]) -> Vec<Prefix> {
        let leases = leases.iter().map(|(subnet, lease)| (subnet, lease));
        let all = prefixes(net(peer).unwrap(), leases).unwrap();
        all.into_iter().filter(|p| *p != Prefix::NONE).collect()
    }

    #[test]
    fn a_node_stands_for_its_pods_as_well() {
        let leases = [
            lease("10.244.2.0/24", [192, 0, 2, 12]),
            lease("10.244.3.0/24", [192, 0, 2, 13]),
            lease("10.244.4.0/24", [192, 0, 2, 12]),
        ];
        let of = |net: &str| prefix(net.parse().unwrap());
        assert_eq!(
            found("192.0.2.12", &leases),
            ["192.0.2.12/32", "10.244.2.0/24", "10.244.4.0/24"].map(of)
        );
        assert_eq!(found("10.244.3.7", &leases), ["10.244.3.7/32"].map(of));
        assert_eq!(found("192.0.2.9/16", &leases), ["192.0.0.0/16"].map(of));
    }

    #[test]
    fn a_node_with_more_subnets_than_there_is_room_for_is_refused_with_advice() {
        let leases: Vec<_> = (0..20)
            .map(|n| lease(&format!("10.244.{n}.0/24"), [192, 0, 2, 12]))
            .collect();
        let leases = leases.iter().map(|(subnet, lease)| (subnet, lease));
        let error = prefixes(net("192.0.2.12").unwrap(), leases).unwrap_err();
        assert!(error.to_string().contains("20 subnets"), "{error}");
    }

    #[test]
    fn peers_are_addresses_or_subnets() {
        assert!(net("10.244.2.0/24").is_ok() && net("10.244.2.1").is_ok());
        assert!(net("node2").is_err() && net("::1").is_err());
    }
}
