//! By which devices packets leave the node, and under which addresses.
//!
//! iptables masquerades whatever device a packet leaves by, under an address of that device; so do we.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;

use ipnet::Ipv4Net;
use serde::Serialize;

use super::{Ports, Underlay};
use crate::dataplane::outlets::{Sources, is_lent};
use crate::node::mark;
use crate::node::net::{Address, Kind, Leads, Link};

/// The devices by which packets leave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outlets {
    /// Those besides the uplink, by name.
    pub devices: BTreeMap<String, Outlet>,
    /// The uplink, unless it has no address to lend.
    pub uplink: Option<Outlet>,
    /// With a link-layer header that our programs do not know: no Ethernet, and not without any either.
    pub unserved: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outlet {
    pub index: u32,
    pub sources: Sources,
}

/// What a node has, as far as it decides about packets that leave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Devices<'a> {
    pub(crate) links: &'a [Link],
    pub(crate) addresses: &'a [Address],
    /// The cluster's network.
    pub(crate) network: Ipv4Net,
}

impl<'a> Devices<'a> {
    fn held(self, link: &Link) -> impl Iterator<Item = &'a Address> + use<'a> {
        let index = link.index;
        let of_it = move |address: &&Address| address.index == index;
        self.addresses.iter().filter(of_it)
    }

    fn is_inside(self, link: &Link) -> bool {
        let mut held = self.held(link);
        held.any(|address| self.network.contains(&address.ip()))
    }

    /// Whether packets may leave by it. Ports of a bridge lead nowhere by themselves.
    fn may_send(link: &Link) -> bool {
        // The kernel sends nothing by a dummy, where kube-proxy and DNS caches keep addresses; and by an ifb only once
        // more, what a pod has sent.
        let goes_nowhere = ["dummy", "ifb"].map(|kind| Kind::Other(kind.to_owned()));
        link.up && !link.loopback && link.controller.is_none() && !goes_nowhere.contains(&link.kind)
    }

    /// Whether its address says that packets leave by it.
    fn leads_out(self, link: &Link) -> bool {
        Self::may_send(link) && !self.is_inside(link) && self.held(link).any(is_lent)
    }

    /// Whether that is for routes to say. A bridge inside the network is one of pods.
    fn is_for_routes(self, link: &Link) -> bool {
        let ours = mark::network_of(link).is_some() || mark::is_anchor(link);
        let of_pods = link.kind.is_bridge() && self.is_inside(link);
        Self::may_send(link) && !self.leads_out(link) && !ours && !of_pods
    }

    /// What they say. Without an address and without routes it may still be how answers come in, unless it is there for a device on it (a
    /// VLAN, a macvlan) or leads to another device of the node. With routes to pods alone (point-to-point, as Calico makes them) it
    /// is a pod's.
    fn is_led_to(self, link: &Link, leads: &Leads) -> bool {
        let carries = || self.links.iter().any(|on| on.lower == Some(link.index));
        let idle = || {
            !self.is_inside(link)
                && !leads.pods.contains(&link.index)
                && link.peer.is_none()
                && !carries()
        };
        self.is_for_routes(link) && (leads.outside.contains(&link.index) || idle())
    }

    /// Whether there is a device for routes to tell of.
    pub(crate) fn depend_on_routes(self) -> bool {
        self.links.iter().any(|link| self.is_for_routes(link))
    }
}

impl Outlets {
    /// `pods` are the ports that packets of pods come from.
    pub(crate) fn find(
        devices: Devices<'_>,
        uplink: u32,
        pods: &Ports,
        underlay: &Underlay,
        leads: &Leads,
    ) -> Self {
        let Devices { links, .. } = devices;
        let mut outlets = Self::default();
        // A device without an address borrows one, of the loopback device if that has any (`inet_select_addr`).
        let of = |link: &Link| devices.held(link).find(|address| is_lent(address));
        let borrowed = links.iter().find_map(of);
        for link in links {
            let leads_out = link.index != uplink
                && !pods.contains_key(&link.name)
                && (devices.leads_out(link)
                    || devices.is_led_to(link, leads)
                    || underlay.others.contains_key(&link.name) && !devices.is_inside(link));
            let tracked = is_tracked(link, links);
            let own = Sources::of(devices.held(link));
            if link.index == uplink {
                outlets.uplink = own.clone().map(|sources| Outlet {
                    index: uplink,
                    sources: sources.tracked(tracked).with_mac(link.mac),
                });
            }
            let sources = own.or_else(|| borrowed.map(|lender| Sources::only(lender.ip())));
            let Some(sources) = sources.filter(|_| leads_out) else {
                continue;
            };
            if link.is_served() {
                let outlet = Outlet {
                    index: link.index,
                    sources: sources.tracked(tracked).with_mac(link.mac),
                };
                outlets.devices.insert(link.name.clone(), outlet);
            } else if devices.leads_out(link) || leads.outside.contains(&link.index) {
                outlets.unserved.insert(link.name.clone());
            }
        }
        outlets
    }

    /// All of them, as the programs know them.
    #[must_use]
    pub fn by_index(&self) -> BTreeMap<u32, Sources> {
        let all = self.uplink.iter().chain(self.devices.values());
        all.map(|outlet| (outlet.index, outlet.sources.clone()))
            .collect()
    }

    /// Whether packets may leave by a device, from a MAC or as an address that is not among the `known`.
    #[must_use]
    pub fn exceed(&self, known: &Self) -> bool {
        let known = known.by_index();
        let is_known = |(index, sources): (u32, Sources)| {
            known.get(&index).is_some_and(|known| {
                let mut addresses = sources.addresses();
                sources.mac() == known.mac()
                    && addresses.all(|address| known.addresses().any(|known| known == address))
            })
        };
        !self.by_index().into_iter().all(is_known)
    }
}

/// Whether netfilter sees what arrives by the device at the port of a bridge: it is one, or on one, as a VLAN may be.
fn is_tracked(link: &Link, links: &[Link]) -> bool {
    let on = |link: &&Link| links.iter().find(|lower| link.lower == Some(lower.index));
    // The kernel allows no deeper nesting (`MAX_NEST_DEV`).
    let chain = iter::successors(Some(link), on).take(8);
    chain.into_iter().any(|link| link.kind.is_bridge())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::net::fixtures::{address, link, veth};

    fn find(links: &[Link], addresses: &[Address]) -> Outlets {
        let pods = Ports::from([("vethpod".to_owned(), 20)]);
        let underlay = Underlay {
            others: [("bare".to_owned(), 6)].into(),
            mtu: None,
        };
        let leads = Leads {
            pods: [11, 14].into(),
            outside: [9, 10, 11].into(),
        };
        Outlets::find(devices(links, addresses), 2, &pods, &underlay, &leads)
    }

    fn devices<'a>(links: &'a [Link], addresses: &'a [Address]) -> Devices<'a> {
        Devices {
            links,
            addresses,
            network: "10.244.0.0/16".parse().unwrap(),
        }
    }

    fn names(outlets: &Outlets) -> Vec<&str> {
        outlets.devices.keys().map(String::as_str).collect()
    }

    /// Routed virtual machines, point-to-point pods of others, PPP, the second leg of an uplink: MASQUERADE has what leaves by
    /// them leave as somebody, and knows what comes in.
    #[test]
    fn a_device_without_an_address_outside_the_network() {
        let linked = Address {
            global: false,
            ..address(10, "169.254.7.1/30")
        };
        let links = [
            link(2, "eth0"),
            link(9, "tap0"),
            link(10, "linked"),
            link(11, "inside"),
            link(12, "idle"),
            link(13, "ptp"),
            link(14, "cali"),
        ];
        let addresses = [
            address(2, "192.0.2.11/24"),
            linked,
            address(11, "10.244.255.1/30"),
            address(13, "10.244.1.1/32"),
        ];
        let outlets = find(&links, &addresses);
        let all = outlets.devices.iter();
        let all: Vec<_> = all
            .map(|(name, of)| format!("{name} {}", of.sources))
            .collect();
        let expected = [
            "idle 192.0.2.11",
            "inside 10.244.255.1",
            "linked 192.0.2.11",
            "tap0 192.0.2.11",
        ];
        assert_eq!(all, expected);
        assert!(devices(&links[..2], &addresses).depend_on_routes());
        assert!(!devices(&links[..1], &addresses).depend_on_routes());
    }

    /// The bridge of the pods, our own pair, the intermediate device of the bandwidth plugin: whatever routes there are.
    #[test]
    fn what_no_route_leads_out_by() {
        let bridge = Link {
            kind: Kind::Other("bridge".to_owned()),
            ..link(9, "cni0")
        };
        let ours = veth(10, "flgro.1", None, Some("flannel-ebpf:coreos_com-network"));
        let ifb = Link {
            kind: Kind::Other("ifb".to_owned()),
            ..link(11, "bwp0123456789ab")
        };
        let addresses = [address(2, "192.0.2.11/24"), address(9, "10.244.1.1/24")];
        let links = [link(2, "eth0"), bridge, ours, ifb];
        assert_eq!(names(&find(&links, &addresses)), Vec::<&str>::new());
        assert!(!devices(&links, &addresses).depend_on_routes());
    }

    /// Unnumbered: the loopback device has the address, or whoever comes first.
    #[test]
    fn a_device_of_the_underlay_borrows_an_address() {
        let loopback = Link {
            loopback: true,
            ..link(1, "lo")
        };
        let links = [loopback, link(6, "bare"), link(7, "idle"), link(8, "eth1")];
        let own = address(8, "192.0.2.8/24");
        let outlets = find(&links, &[own.clone(), address(1, "192.0.2.1/32")]);
        assert_eq!(names(&outlets), ["bare", "eth1", "idle"]);
        let of_bare = |outlets: &Outlets| outlets.devices["bare"].sources.to_string();
        assert_eq!(of_bare(&outlets), "192.0.2.1");
        let outlets = find(&links, &[own]);
        assert_eq!(of_bare(&outlets), "192.0.2.8");
    }

    #[test]
    fn every_device_with_an_address_outside_the_network() {
        let links = [
            link(1, "eth1"),
            link(2, "eth0"),
            link(3, "docker0"),
            link(4, "cni0"),
            link(5, "flannel.1"),
            link(6, "idle"),
            link(20, "vethpod"),
        ];
        let addresses = [
            address(1, "192.168.7.9/24"),
            address(2, "192.168.0.1/24"),
            address(3, "172.17.0.1/16"),
            address(4, "10.244.1.1/24"),
            address(5, "10.244.1.0/32"),
            address(20, "192.0.2.1/32"),
        ];
        let outlets = find(&links, &addresses);
        assert_eq!(names(&outlets), ["docker0", "eth1", "idle"]);
        let outlet = Outlet {
            index: 1,
            sources: Sources::of([&address(1, "192.168.7.9/24")])
                .unwrap()
                .with_mac(links[0].mac),
        };
        assert_eq!(outlets.devices["eth1"], outlet);
        assert!(outlets.unserved.is_empty());
    }

    #[test]
    fn behind_a_bridge_netfilter_looks_first() {
        let bridge = Link {
            kind: Kind::Other("bridge".to_owned()),
            ..link(2, "br0")
        };
        let vlan = Link {
            kind: Kind::Other("vlan".to_owned()),
            lower: Some(2),
            ..link(3, "br0.7")
        };
        let of_card = Link {
            kind: Kind::Other("vlan".to_owned()),
            lower: Some(5),
            ..link(4, "eth1.7")
        };
        let nets = ["192.0.2.1/24", "192.0.3.1/24", "192.0.4.1/24"];
        let addresses: Vec<_> = (2..)
            .zip(nets)
            .map(|(index, net)| address(index, net))
            .collect();
        let outlets = find(&[bridge, vlan, of_card, link(5, "eth1")], &addresses);
        let tracked = |outlet: &Outlet| outlet.sources.choices().unwrap().tracked == 1;
        assert!(tracked(&outlets.uplink.unwrap()));
        let devices = outlets.devices.iter();
        let devices: Vec<_> = devices
            .map(|(name, of)| (name.as_str(), tracked(of)))
            .collect();
        assert_eq!(devices, [("br0.7", true), ("eth1.7", false)]);
    }

    #[test]
    fn no_device_that_packets_do_not_leave_by() {
        let down = Link {
            up: false,
            ..link(3, "down")
        };
        let port = Link {
            controller: Some(9),
            ..link(4, "port")
        };
        let dummy = Link {
            kind: Kind::Other("dummy".to_owned()),
            ..link(5, "nodelocaldns")
        };
        let loopback = Link {
            loopback: true,
            ..link(6, "lo")
        };
        let addresses = [3, 4, 5, 6].map(|index| address(index, "192.0.2.1/24"));
        let outlets = find(&[down, port, dummy, loopback], &addresses);
        assert_eq!(outlets, Outlets::default());
    }

    #[test]
    fn the_uplink_lends_all_that_it_has() {
        let addresses = [
            address(2, "192.0.2.1/24"),
            address(3, "192.0.2.3/24"),
            address(2, "198.51.100.1/24"),
        ];
        let links = [link(2, "eth0"), link(3, "eth1")];
        let outlets = find(&links, &addresses);
        assert_eq!(names(&outlets), ["eth1"]);
        let all = outlets.by_index();
        let of = |n: u32| all[&n].to_string();
        assert_eq!(of(2), "192.0.2.1, 198.51.100.1 to 198.51.100.0/24");
        assert_eq!(of(3), "192.0.2.3");
        assert_eq!(find(&links, &addresses[1..2]).uplink, None);
    }

    #[test]
    fn more_than_before_is_told_from_others_and_from_less() {
        let links = [link(2, "eth0"), link(3, "eth1")];
        let addresses = [
            address(2, "192.0.2.1/24"),
            address(3, "192.0.2.3/24"),
            address(2, "198.51.100.1/24"),
        ];
        let with = |n: usize| find(&links, &addresses[..n]);
        assert!(with(1).exceed(&with(0)), "the uplink's first address");
        assert!(with(2).exceed(&with(1)), "another device");
        assert!(with(3).exceed(&with(2)), "another address");
        assert!(!with(3).exceed(&with(3)));
        assert!(!with(2).exceed(&with(3)));
        assert!(with(1).exceed(&with(3)), "eth1 borrows an address");
        let made_again = [link(2, "eth0"), link(4, "eth1")];
        let again = [address(2, "192.0.2.1/24"), address(4, "192.0.2.3/24")];
        assert!(find(&made_again, &again).exceed(&with(2)));
        let before = with(3);
        let [uplink, other] = links.clone();
        let of_another = Link {
            mac: Some([2, 0, 0, 0, 0, 99]),
            ..other
        };
        assert!(find(&[uplink, of_another], &addresses).exceed(&before));
    }

    #[test]
    fn what_has_another_header_is_named() {
        let other = |index, name, bare| Link {
            ethernet: false,
            bare,
            ..link(index, name)
        };
        // The last two have no address: one leads out by a route, and nothing leaves by the other.
        let links = [
            other(3, "wg0", true),
            other(4, "ib0", false),
            other(10, "ib1", false),
            other(12, "can0", false),
        ];
        let held = [3, 4].map(|index| address(index, "192.0.2.1/24"));
        let outlets = find(&links, &held);
        assert_eq!(names(&outlets), ["wg0"]);
        assert_eq!(outlets.unserved, ["ib0", "ib1"].map(str::to_owned).into());
    }
}
