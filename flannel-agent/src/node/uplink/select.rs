//! The choice, as a pure function of what the kernel holds.

use std::net::Ipv4Addr;

use super::{Memory, Uplink, UplinkError};
use crate::base::options::UplinkChoice;
use crate::node::mark;
use crate::node::net::{Address, Kind, Link, NetError, NextHop, Path, Route};

/// RFC 791: every link carries 68 bytes. The inner packet needs them behind 50 bytes of tunnel.
const MINIMUM_MTU: u32 = 68 + 50;
/// Where the devices that carry packets are not known yet.
const ETHERNET_MTU: u32 = 1500;

/// What the choice is made from.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    /// Lowest metric first.
    pub(super) routes: Vec<Route>,
    /// The look-up for `--iface-can-reach`.
    pub(super) reach: Option<(Ipv4Addr, Result<NextHop, NetError>)>,
}

/// An interface that was found, with the address if the finding names one.
struct Found<'a> {
    link: &'a Link,
    address: Option<Ipv4Addr>,
    why: String,
}

impl Snapshot {
    pub(super) fn select(
        &self,
        choice: &UplinkChoice,
        memory: &Memory,
    ) -> Result<Uplink, UplinkError> {
        let asked = !choice.interfaces.is_empty()
            || !choice.regexes.is_empty()
            || choice.can_reach.is_some();
        let found = match (asked, choice.public_ip) {
            (true, _) => self.as_asked(choice, memory)?,
            (false, Some(address)) => self
                .by_address(address)
                .map(|link| Found {
                    link,
                    address: Some(address),
                    why: format!("it holds --public-ip={address}"),
                })
                .ok_or_else(|| UplinkError::NobodyHolds {
                    address,
                    candidates: self.candidates(),
                })?,
            (false, None) => self.by_default_route(memory)?,
        };
        self.check(found, choice.public_ip, memory)
    }

    /// The same, once there was one: flanneld looks for its uplink when it starts and never again, so a route that is away
    /// changes nothing as long as device and address are there.
    pub(super) fn select_again(
        &self,
        choice: &UplinkChoice,
        memory: &Memory,
        known: &Uplink,
    ) -> Result<Uplink, UplinkError> {
        let selected = self.select(choice, memory);
        // A wish gives way when the agent starts. A device in use that has no address for a moment stays it.
        let waits = |link: &&Link| !self.has_address(link) && choice.names(&link.name);
        let known_link = self.by_index(known.index).filter(waits);
        if let (Ok(other), Some(link)) = (&selected, known_link)
            && other.index != link.index
        {
            let name = link.name.clone();
            return Err(UplinkError::NoAddress { name });
        }
        let (Err(UplinkError::NoDefaultRoute { .. } | UplinkError::NoneFits { .. }), Some(found)) =
            (&selected, self.still(known))
        else {
            return selected;
        };
        self.check(found, choice.public_ip, memory)
    }

    fn still(&self, known: &Uplink) -> Option<Found<'_>> {
        let link = self.by_index(known.index)?;
        self.by_address(known.address)?;
        Some(Found {
            link,
            address: Some(known.address),
            why: "as before; the route that it was told by is away".to_owned(),
        })
    }

    /// `--iface` values in order, then `--iface-regex`, then `--iface-can-reach`; as flanneld, on to the next where there is no
    /// address: one list serves nodes where the card is a port of a bridge and nodes where it is not.
    fn as_asked(&self, choice: &UplinkChoice, memory: &Memory) -> Result<Found<'_>, UplinkError> {
        let mut tried = Vec::new();
        let mut without_address = None;
        for value in &choice.interfaces {
            let address = value.parse().ok();
            let link = match address {
                Some(address) => self.by_address(address),
                None => self.by_name(value),
            };
            let why = format!("--iface={value}");
            match link {
                Some(link) if address.is_some() || self.has_address(link) => {
                    return Ok(Found { link, address, why });
                }
                Some(link) => {
                    tried.push(format!("{why}: it has no IPv4 address"));
                    without_address.get_or_insert(Found { link, address, why });
                }
                None if address.is_some() => {
                    tried.push(format!("{why}: no interface holds this address"));
                }
                None => tried.push(format!("{why}: no such interface")),
            }
        }
        for regex in &choice.regexes {
            let why = format!("--iface-regex={regex}");
            let by_address = self
                .addresses
                .iter()
                .filter(|a| regex.is_match(&a.ip().to_string()))
                .find_map(|a| Some((self.by_index(a.index)?, Some(a.ip()))));
            let by_name = || {
                let links = || self.links().filter(|link| regex.is_match(&link.name));
                let link = links().find(|link| self.has_address(link));
                link.or_else(|| links().next()).map(|link| (link, None))
            };
            if let Some((link, address)) = by_address.or_else(by_name) {
                // Several of its addresses may match.
                let matching = |a: &&Address| regex.is_match(&a.ip().to_string());
                let held: Vec<_> = self.held(link).filter(matching).collect();
                let address = address.map(|first| memory.kept(&held).unwrap_or(first));
                if address.is_some() || self.has_address(link) {
                    return Ok(Found { link, address, why });
                }
                tried.push(format!("{why}: {} has no IPv4 address", link.name));
                without_address.get_or_insert(Found { link, address, why });
                continue;
            }
            tried.push(format!("{why}: matches no address and no name"));
        }
        if let Some((to, reach)) = &self.reach {
            let why = format!("--iface-can-reach={to}");
            match reach {
                Ok(hop) => match self.by_index(hop.index) {
                    Some(link) => {
                        let held: Vec<_> = self.held(link).collect();
                        let address = memory.in_use(&held).or(hop.source);
                        return Ok(Found { link, address, why });
                    }
                    None => tried.push(format!("{why}: interface #{} is gone", hop.index)),
                },
                Err(error) => tried.push(format!("{why}: {error}")),
            }
        }
        // The error of the only one says more.
        let only = without_address.filter(|_| tried.len() == 1);
        only.ok_or_else(|| UplinkError::NoneFits {
            tried,
            candidates: self.candidates(),
        })
    }

    fn has_address(&self, link: &Link) -> bool {
        self.held(link).next().is_some()
    }

    /// The default route of lowest metric; of several next hops the first whose link is up.
    fn by_default_route(&self, memory: &Memory) -> Result<Found<'_>, UplinkError> {
        let none = || UplinkError::NoDefaultRoute {
            candidates: self.candidates(),
        };
        let routes = self
            .routes
            .iter()
            .filter(|route| route.destination.prefix_len() == 0);
        let ways: Vec<_> = routes
            .flat_map(|route| {
                route.paths.iter().filter_map(move |path| {
                    let link = self.by_index(path.index)?;
                    Some((link, !path.dead && link.running, route.paths.len()))
                })
            })
            .collect();
        let (link, up, next_hops) = ways
            .iter()
            .find(|(_, up, _)| *up)
            .or(ways.first())
            .ok_or_else(none)?;
        let mut why = "default route of the main table".to_owned();
        if *next_hops > 1 {
            why = format!("{why}, first of {next_hops} next hops with link up");
        }
        if !up {
            why = format!("{why}, although its link is down");
        }
        // Unnumbered: such a device sends under an address of the loopback device (`inet_select_addr`).
        let address = match self.held(link).any(|address| !address.deprecated) {
            true => None,
            false => self.address_of_loopback(memory),
        };
        if address.is_some() {
            why = format!(
                "{why}; the address is the loopback device's, since {} has none",
                link.name
            );
        }
        Ok(Found { link, address, why })
    }

    fn address_of_loopback(&self, memory: &Memory) -> Option<Ipv4Addr> {
        let loopback = self.links().find(|link| link.loopback)?;
        let held: Vec<_> = self.held(loopback).filter(|a| a.global).collect();
        memory.choose(&held, None)
    }

    fn check(
        &self,
        found: Found<'_>,
        public_ip: Option<Ipv4Addr>,
        memory: &Memory,
    ) -> Result<Uplink, UplinkError> {
        let Found { link, address, why } = found;
        let name = || link.name.clone();
        let is_carrier = !link.loopback && link.kind != Kind::Other("dummy".to_owned());
        if is_carrier && !link.is_served() {
            return Err(UplinkError::NotEthernet { name: name() });
        }
        let mtu = match is_carrier {
            true => link.mtu.min(self.mtu_beside(link)),
            false => self.mtu_out().unwrap_or(link.mtu.min(ETHERNET_MTU)),
        };
        if mtu < MINIMUM_MTU {
            return Err(UplinkError::Mtu {
                name: name(),
                mtu,
                minimum: MINIMUM_MTU,
            });
        }
        let address = address
            .or_else(|| self.address_of(link, public_ip, memory))
            .ok_or_else(|| UplinkError::NoAddress { name: name() })?;
        if address.is_loopback() {
            return Err(UplinkError::Loopback { name: name() });
        }
        Ok(Uplink {
            name: name(),
            index: link.index,
            mtu,
            mac: link.mac.filter(|_| link.ethernet).unwrap_or_default(),
            address,
            public_ip: public_ip.unwrap_or(address),
            is_carrier,
            why,
        })
    }

    /// The smallest MTU of the devices by which the best default route leads, else of those by which any gateway is reached.
    fn mtu_out(&self) -> Option<u32> {
        let default = self.routes.iter().find(|r| r.destination.prefix_len() == 0);
        let gateways = self.routes.iter().flat_map(|route| &route.paths);
        let gateways = gateways.filter(|path| path.gateway.is_some());
        match default {
            Some(route) => self.mtu_of(route.paths.iter()),
            None => self.mtu_of(gateways),
        }
    }

    /// The same of the devices that share a default route with this one.
    fn mtu_beside(&self, link: &Link) -> u32 {
        let shared = self.routes.iter().find(|route| {
            route.destination.prefix_len() == 0 && route.paths.iter().any(|p| p.index == link.index)
        });
        shared
            .and_then(|route| self.mtu_of(route.paths.iter()))
            .unwrap_or(link.mtu)
    }

    fn mtu_of<'a>(&self, paths: impl Iterator<Item = &'a Path>) -> Option<u32> {
        paths
            .filter_map(|path| Some(self.by_index(path.index)?.mtu))
            .min()
    }

    fn address_of(
        &self,
        link: &Link,
        public_ip: Option<Ipv4Addr>,
        memory: &Memory,
    ) -> Option<Ipv4Addr> {
        let held: Vec<_> = self.held(link).collect();
        memory.choose(&held, public_ip)
    }

    fn held(&self, link: &Link) -> impl Iterator<Item = &Address> {
        let index = link.index;
        self.addresses.iter().filter(move |a| a.index == index)
    }

    /// Our own devices hold addresses of the overlay; they are never the way to it.
    fn links(&self) -> impl Iterator<Item = &Link> {
        self.links
            .iter()
            .filter(|link| mark::network_of(link).is_none())
    }

    fn by_index(&self, index: u32) -> Option<&Link> {
        self.links().find(|link| link.index == index)
    }

    fn by_name(&self, name: &str) -> Option<&Link> {
        self.links().find(|link| link.name == name)
    }

    fn by_address(&self, ip: Ipv4Addr) -> Option<&Link> {
        self.addresses
            .iter()
            .filter(|address| address.ip() == ip)
            .find_map(|address| self.by_index(address.index))
    }

    /// The interfaces one could name instead.
    fn candidates(&self) -> String {
        let mut names: Vec<_> = self
            .links()
            .filter(|link| !link.loopback && link.is_served() && !self.leads_to_containers(link))
            .map(
                |link| match self.address_of(link, None, &Memory::default()) {
                    Some(address) => format!("{} ({address})", link.name),
                    None => format!("{} (no IPv4 address)", link.name),
                },
            )
            .collect();
        if names.is_empty() {
            names.push("none but the loopback".to_owned());
        }
        names.join(", ")
    }

    /// Ports of a bridge, and a bridge that has none but containers' (`cni0`, `docker0`): no other node is there.
    fn leads_to_containers(&self, link: &Link) -> bool {
        let is_bridge = |link: &Link| link.kind.is_bridge();
        let controller = link.controller.and_then(|index| self.by_index(index));
        let mut ports = self.links().filter(|l| l.controller == Some(link.index));
        controller.is_some_and(is_bridge)
            || is_bridge(link) && ports.all(|port| port.kind == Kind::Veth)
    }
}
