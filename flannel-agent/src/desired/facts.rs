//! What is true of this node, read from the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::{Facts, FastPath, Hook, Outlets, Ports, Room, destinations};
use crate::config::NetworkConfig;
use crate::dataplane::online_cpus;
use crate::direct;
use crate::lease::Leases;
use crate::net::{Link, NetError, Netlink, sysctl};
use crate::node_sysctls::NodeSysctls;
use crate::uplink::Uplink;

/// What decides which facts are needed.
#[derive(Debug, Clone, Copy)]
pub struct Sought<'a> {
    pub config: &'a NetworkConfig,
    pub uplink: &'a Uplink,
    pub leases: &'a Leases,
    pub fast_path: &'a FastPath,
    pub sysctls: &'a NodeSysctls,
}

/// What next hops were looked up over: when it changes, the kernel may answer otherwise without having
/// announced a route (it drops the routes of a link that goes down in silence, `fib_sync_down_dev`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    uplink: u32,
    /// By index: up, and with carrier.
    links: BTreeMap<u32, (bool, bool)>,
}

impl Facts {
    /// Reads everything anew.
    ///
    /// # Errors
    /// If the kernel does not say which local ports it uses.
    pub async fn gather(net: &Netlink, sought: Sought<'_>) -> Result<Self, NetError> {
        let mut facts = Self::default();
        facts.refresh(net, sought, true).await?;
        Ok(facts)
    }

    /// Reads what is cheap, and looks up next hops only where they may have changed: with thousands of peers
    /// that is thousands of questions, and each new pod announces a link. `routes`: routes or addresses
    /// changed, or nobody knows.
    ///
    /// # Errors
    /// As [`Self::gather`].
    pub async fn refresh(
        &mut self,
        net: &Netlink,
        sought: Sought<'_>,
        routes: bool,
    ) -> Result<(), NetError> {
        let links = net.links().await?;
        self.local_ports = sysctl::local_port_range()?;
        // What cannot be read is said by whoever writes there.
        self.reserved = sought.sysctls.reserved_ports().unwrap_or_default();
        self.cpus = online_cpus();
        self.pod_ports = pod_ports(&links, sought.fast_path);
        self.outlets = Outlets::find(
            &links,
            &net.addresses().await?,
            sought.config.network,
            sought.uplink.index,
            &self.pod_ports,
        );
        let moved = self.ways != self.ways_now(&links, sought.uplink);
        if moved {
            self.new_ways_out();
        }
        if routes || moved {
            self.next_hops.clear();
            self.on_link.clear();
        }
        self.update(net, sought).await;
        self.ways = self.ways_now(&links, sought.uplink);
        Ok(())
    }

    /// What a choice of ports for source NAT depends on; `tunnel` is the network's VXLAN port, 0 without a tunnel.
    #[must_use]
    pub const fn room(&self, tunnel: u16) -> Room<'_> {
        Room {
            local: self.local_ports,
            reserved: &self.reserved,
            tunnel,
        }
    }

    /// Routes to the outside changed, or may have.
    pub fn new_ways_out(&mut self) {
        self.ways_out = self.ways_out.wrapping_add(1);
    }

    /// After a change of leases: looks up next hops that are not known yet and forgets those nobody
    /// needs.
    pub async fn update(&mut self, net: &Netlink, sought: Sought<'_>) {
        let Sought { config, leases, .. } = sought;
        let wanted = destinations(config, leases);
        let index = Some(sought.uplink.index);
        let missing = unknown(&mut self.next_hops, wanted);
        self.next_hops.extend(net.next_hops(missing, index).await);

        let missing = unknown(&mut self.on_link, direct::destinations(config, leases));
        // Asked without naming an interface: with one, the kernel takes what it has no route to for a
        // neighbour (`ip_route_output_key`).
        let hops = net.next_hops(missing.iter().copied(), None).await;
        self.on_link.extend(missing.into_iter().map(|address| {
            let hop = hops.get(&address);
            let neighbour = hop.filter(|hop| hop.via == address && !hop.local);
            (address, neighbour.map(|hop| hop.index))
        }));
    }

    fn ways_now(&self, links: &[Link], uplink: &Uplink) -> Ways {
        let hops = self.next_hops.values().map(|hop| hop.index);
        let neighbours = self.on_link.values().copied().flatten();
        let used: BTreeSet<u32> = hops.chain(neighbours).chain([uplink.index]).collect();
        let used = links.iter().filter(|link| used.contains(&link.index));
        Ways {
            uplink: uplink.index,
            links: used.map(|l| (l.index, (l.up, l.running))).collect(),
        }
    }
}

/// Forgets what is not wanted; returns what is not known.
fn unknown<T>(known: &mut BTreeMap<Ipv4Addr, T>, wanted: BTreeSet<Ipv4Addr>) -> BTreeSet<Ipv4Addr> {
    known.retain(|address, _| wanted.contains(address));
    let unknown = |address: &Ipv4Addr| !known.contains_key(address);
    wanted.into_iter().filter(unknown).collect()
}

/// Where the programs of the fast path belong: nowhere while there is no bridge.
fn pod_ports(links: &[Link], fast_path: &FastPath) -> Ports {
    let Some(bridge) = links.iter().find(|link| link.name == fast_path.bridge) else {
        return Ports::new();
    };
    let belongs = |link: &&Link| match fast_path.hook {
        Hook::Bridge => link.index == bridge.index,
        Hook::Port => link.controller == Some(bridge.index),
    };
    let found = links.iter().filter(belongs);
    found.map(|link| (link.name.clone(), link.index)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::fixtures;

    fn link(index: u32, name: &str, controller: Option<u32>) -> Link {
        Link {
            controller,
            ..fixtures::link(index, name)
        }
    }

    fn links() -> Vec<Link> {
        vec![
            link(2, "eth0", None),
            link(5, "cni0", None),
            link(6, "docker0", None),
            link(7, "vetha", Some(5)),
            link(8, "vethb", Some(6)),
        ]
    }

    #[test]
    fn ports_of_the_pod_bridge_only() {
        let at_ports = FastPath::default();
        let ports = pod_ports(&links(), &at_ports);
        assert_eq!(ports, Ports::from([("vetha".to_owned(), 7)]));
        assert_eq!(pod_ports(&links()[..1], &at_ports), Ports::new());
    }

    #[test]
    fn or_the_bridge_itself() {
        let at_bridge = FastPath {
            hook: Hook::Bridge,
            ..FastPath::default()
        };
        assert_eq!(
            pod_ports(&links(), &at_bridge),
            Ports::from([("cni0".to_owned(), 5)])
        );
    }

    fn uplink() -> Uplink {
        Uplink {
            name: "eth0".to_owned(),
            index: 2,
            mtu: 1500,
            mac: [2, 0, 0, 0, 0, 9],
            address: Ipv4Addr::new(192, 168, 0, 1),
            public_ip: Ipv4Addr::new(192, 168, 0, 1),
            why: "test".to_owned(),
        }
    }

    #[test]
    fn only_links_that_packets_to_peers_take_count_as_ways() {
        let facts = Facts {
            on_link: BTreeMap::from([
                (Ipv4Addr::new(192, 168, 0, 2), Some(2)),
                (Ipv4Addr::new(10, 0, 0, 9), None),
            ]),
            ..Facts::default()
        };
        let before = facts.ways_now(&links(), &uplink());
        let mut now = links();
        now.push(link(9, "vethc", Some(5)));
        now[3].running = false;
        assert_eq!(facts.ways_now(&now, &uplink()), before, "pods come and go");
        now[0].running = false;
        assert_ne!(
            facts.ways_now(&now, &uplink()),
            before,
            "the uplink's cable"
        );
        let moved = Uplink {
            index: 6,
            ..uplink()
        };
        assert_ne!(facts.ways_now(&links(), &moved), before);
    }

    #[test]
    fn what_is_known_is_not_asked_again_and_what_is_not_wanted_forgotten() {
        let [a, b, c] = [1, 2, 3].map(|n| Ipv4Addr::new(192, 0, 2, n));
        let mut known = BTreeMap::from([(a, ()), (b, ())]);
        assert_eq!(
            unknown(&mut known, BTreeSet::from([b, c])),
            BTreeSet::from([c])
        );
        assert_eq!(known.into_keys().collect::<Vec<_>>(), [b]);
    }
}
