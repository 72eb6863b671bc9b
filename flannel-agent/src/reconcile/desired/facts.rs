//! What is true of this node, read from the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::{Devices, Facts, LIBERAL, Outlets, Ports, Underlay, destinations, gro};
use crate::base::options::{FastPath, Gro, Hook};
use crate::dataplane::online_cpus;
use crate::flannel::backend::Wire;
use crate::flannel::config::NetworkConfig;
use crate::flannel::lease::Leases;
use crate::node::conntrack::{self, ESTABLISHED};
use crate::node::direct;
use crate::node::net::{Leads, Link, NetError, Netlink, Policies, RouteTo, Sender, sysctl};
use crate::node::node_sysctls::{NodeSysctls, Reserved};
use crate::node::snat_ports::Room;
use crate::node::uplink::Uplink;
use crate::node::{mark, wireguard};

/// What decides which facts are needed.
#[derive(Debug, Clone, Copy)]
pub struct Sought<'a> {
    pub config: &'a NetworkConfig,
    pub uplink: &'a Uplink,
    pub leases: &'a Leases,
    pub fast_path: &'a FastPath,
    pub sysctls: &'a NodeSysctls,
    /// Name in aliases.
    pub network: &'a str,
}

/// What ways were looked up over: when it changes, the kernel may answer otherwise without having announced a route (it
/// drops the routes of a link that goes down in silence, `fib_sync_down_dev`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Base {
    uplink: u32,
    /// Whom the packets come from.
    source: Option<Ipv4Addr>,
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

    /// Reads what is cheap, and looks up ways only where they may have changed: with thousands of peers
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
        let own = mark::network_name(sought.network);
        let others = links.iter().filter_map(mark::network_of);
        let are_alone = others.into_iter().all(|network| network == own);
        self.know_reserved(sought.sysctls.reserved_ports(), are_alone);
        if let Ok(established) = sysctl::read(ESTABLISHED) {
            self.established = established;
        }
        self.know_times(sought.sysctls);
        match sysctl::may_be(LIBERAL, "1") {
            Ok(()) => self.strict = None,
            Err(error) if error.is_denied() => self.strict = Some(error.to_string()),
            // No answer, and asked again.
            Err(_) => {}
        }
        self.cpus = online_cpus();
        let wireguard = links.iter().find(|link| link.name == wireguard::DEVICE);
        // flanneld's has no alias, and is taken over.
        let ours =
            wireguard.filter(|link| link.alias.is_none() || mark::network_of(link).is_some());
        self.wireguard = ours.map(|link| link.index);
        let bare = links.iter().filter(|link| link.bare);
        self.bare = bare.map(|link| link.name.clone()).collect();
        self.policies = Policies::read()?;
        self.pod_ports = pod_ports(&links, sought.fast_path);
        self.shaped = take_shaped(&mut self.pod_ports, &net.ingress_qdiscs().await?);
        let moved = self.base != self.base_now(&links, sought.uplink);
        if moved {
            self.new_others_ways();
        }
        self.look_up(net, sought, routes || moved).await;
        self.base = self.base_now(&links, sought.uplink);
        let is_ipip = (sought.config.backend.tunnel()).is_some_and(|it| it.wire == Wire::Ipip);
        self.by_protocol = is_ipip && net.has_rules_by_protocol().await?;
        let uplink = sought.uplink;
        let routes = match uplink.is_carrier {
            true => Vec::new(),
            false => net.routes().await?,
        };
        let (ways, pods) = (self.ways.values(), &self.pod_ports);
        self.underlay = Underlay::find(&links, uplink, ways, &routes, pods);
        let addresses = net.addresses().await?;
        let range = sought.config.network;
        self.udp_number = mark::udp_number(sought.network, range, &links, &addresses);
        self.others_udp = others_udp(&links, sought.network);
        let devices = Devices {
            links: &links,
            addresses: &addresses,
            network: sought.config.network,
        };
        self.depend_on_routes = devices.depend_on_routes();
        let leads = match self.depend_on_routes {
            true => net.leads(sought.config.network).await?,
            false => Leads::default(),
        };
        self.outlets = Outlets::find(
            devices,
            sought.uplink.index,
            &self.pod_ports,
            &self.underlay,
            &leads,
        );
        let silent = net.silent_neighbours().await?;
        self.doubt(&sought, &links, &silent);
        self.port_holder = match sought.config.backend.tunnel() {
            Some(tunnel) if sought.fast_path.gro == Gro::Anchor => {
                (tunnel.port).and_then(|port| gro::holder(&links, tunnel.wire, port))
            }
            _ => None,
        };
        Ok(())
    }

    /// What cannot be read just now is most likely what it was: taken for nothing, it would give this network the ports of another.
    /// Where none is here, there is nothing to take; that the file is damaged is said by who writes it.
    fn know_reserved(&mut self, read: Result<Reserved, NetError>, are_alone: bool) {
        match read {
            Ok(reserved) => {
                self.reserved = reserved.or_still(&self.reserved);
                self.unknown_ports = None;
                self.knows_ports = true;
            }
            Err(error) if self.knows_ports || are_alone => {
                self.unknown_ports = None;
                tracing::debug!("reserved ports are taken for what they were: {error}");
            }
            Err(error) => self.unknown_ports = Some(error.to_string()),
        }
    }

    /// The same of how long flows live: with other times, those that live would be over.
    fn know_times(&mut self, sysctls: &NodeSysctls) {
        match conntrack::try_times(sysctls) {
            Ok(times) => self.times = times,
            Err(_) if self.times == flannel_common::snat::Times::default() => {
                self.times = conntrack::times(sysctls);
            }
            Err(error) => {
                tracing::debug!("conntrack's times are taken for what they were: {error}");
            }
        }
    }

    /// Whether packets may leave by a device, or as an address, that was not there at the last look.
    #[must_use]
    pub(crate) fn lack_outlets(&self, devices: Devices<'_>, uplink: u32, leads: &Leads) -> bool {
        let (pods, underlay) = (&self.pod_ports, &self.underlay);
        let now = Outlets::find(devices, uplink, pods, underlay, leads);
        now.exceed(&self.outlets)
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

    /// Routes or rules that are not ours changed, or may have.
    pub fn new_others_ways(&mut self) {
        self.others_ways = self.others_ways.wrapping_add(1);
    }

    /// After a change of leases: looks up ways that are not known yet and forgets those nobody
    /// needs.
    pub async fn update(&mut self, net: &Netlink, sought: Sought<'_>) {
        self.look_up(net, sought, false).await;
    }

    /// `all`: what is known may not be true any more.
    async fn look_up(&mut self, net: &Netlink, sought: Sought<'_>, all: bool) {
        let Sought { config, leases, .. } = sought;
        let silent = std::mem::take(&mut self.unanswered);
        let again = |peer: &Ipv4Addr| all || silent.contains(peer);
        let asked = unknown(&mut self.ways, destinations(config, leases), again);
        self.unreached
            .retain(|peer, _| self.ways.contains_key(peer));
        self.hear_ways(net.ways(asked, sought.sender()).await);

        // Pods' packets do not come from this node's address.
        let asked = direct::destinations(config, leases);
        let asked = unknown(&mut self.on_link, asked, again);
        self.hear_on_link(net.ways(asked, Sender::default()).await);
    }

    fn hear_ways(&mut self, answers: Answers) {
        for (peer, way) in answers {
            if let Err(error) = heard(&mut self.ways, peer, way) {
                if error.is_no_answer() {
                    self.unanswered.insert(peer);
                }
                if !self.ways.contains_key(&peer) {
                    self.unreached.insert(peer, error.to_string());
                }
            }
        }
    }

    fn hear_on_link(&mut self, answers: Answers) {
        for (peer, way) in answers {
            match heard(&mut self.on_link, peer, way.map(|way| way.on_link())) {
                Err(error) if error.is_no_answer() => drop(self.unanswered.insert(peer)),
                Err(_) => drop(self.on_link.insert(peer, None)),
                Ok(()) => {}
            }
        }
    }

    fn base_now(&self, links: &[Link], uplink: &Uplink) -> Base {
        let hops = self.ways.values().flat_map(RouteTo::devices);
        let neighbours = self.on_link.values().copied().flatten();
        let used: BTreeSet<u32> = hops.chain(neighbours).chain([uplink.index]).collect();
        let used = links.iter().filter(|link| used.contains(&link.index));
        Base {
            uplink: uplink.index,
            source: Some(uplink.address),
            links: used.map(|l| (l.index, (l.up, l.running))).collect(),
        }
    }
}

impl Sought<'_> {
    /// As whom this node sends to peers.
    fn sender(&self) -> Sender {
        Sender {
            source: Some(self.uplink.address),
            udp_port: self.config.backend.udp_port(),
        }
    }
}

/// Networks of this node that may have the UDP port which this one is to have.
fn others_udp(links: &[Link], own: &str) -> BTreeSet<String> {
    let udp = links.iter().filter(|link| mark::is_udp(&link.name));
    let others = udp.filter_map(mark::network_of).filter(|it| *it != own);
    others.map(str::to_owned).collect()
}

/// Of look-ups, by destination.
type Answers = Vec<(Ipv4Addr, Result<RouteTo, NetError>)>;

/// Forgets what is not wanted; returns what is to be asked: what is not known, and what is asked `again`.
fn unknown<T>(
    known: &mut BTreeMap<Ipv4Addr, T>,
    wanted: BTreeSet<Ipv4Addr>,
    again: impl Fn(&Ipv4Addr) -> bool,
) -> BTreeSet<Ipv4Addr> {
    known.retain(|address, _| wanted.contains(address));
    let unknown = |address: &Ipv4Addr| again(address) || !known.contains_key(address);
    wanted.into_iter().filter(unknown).collect()
}

/// Takes an answer in. What was known stays where there was none: as if there were no way, routes and programs would go.
fn heard<T>(
    known: &mut BTreeMap<Ipv4Addr, T>,
    about: Ipv4Addr,
    answer: Result<T, NetError>,
) -> Result<(), NetError> {
    match answer {
        Ok(now) => {
            known.insert(about, now);
            Ok(())
        }
        Err(error) => {
            if !error.is_no_answer() {
                known.remove(&about);
            }
            Err(error)
        }
    }
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

/// Whose packets are shaped on their way in is no port for the fast path; and before 6.6 our filters would stand in
/// the way of the qdisc that does it, or it in theirs.
fn take_shaped(ports: &mut Ports, ingress: &BTreeSet<u32>) -> Ports {
    ports
        .extract_if(.., |_, index| ingress.contains(index))
        .collect()
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::node::net::fixtures;

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
    fn shaped_ports_are_set_apart() {
        let mut ports = Ports::from([("vetha".to_owned(), 7), ("vethb".to_owned(), 8)]);
        let shaped = take_shaped(&mut ports, &BTreeSet::from([8, 2]));
        assert_eq!(ports, Ports::from([("vetha".to_owned(), 7)]));
        assert_eq!(shaped, Ports::from([("vethb".to_owned(), 8)]));
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

    #[test]
    fn ports_that_cannot_be_read_for_a_moment_are_what_they_were() {
        let unreadable = || Err(NetError::refused("read the file", Errno::EMFILE));
        let mut facts = Facts::default();
        facts.know_reserved(unreadable(), true);
        assert_eq!(facts.unknown_ports, None, "no other network is here");
        facts.know_reserved(unreadable(), false);
        assert!(facts.unknown_ports.as_ref().unwrap().contains("EMFILE"));
        let reserved = Reserved {
            held: (60_000..=60_999).into(),
            by_others: (49_152..=59_999).into(),
            by_networks: (49_152..=59_999).into(),
        };
        facts.know_reserved(Ok(reserved.clone()), false);
        facts.know_reserved(unreadable(), false);
        assert_eq!(
            (facts.reserved, facts.unknown_ports),
            (reserved, None),
            "what the last look had"
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
            is_carrier: true,
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
        let before = facts.base_now(&links(), &uplink());
        let mut now = links();
        now.push(link(9, "vethc", Some(5)));
        now[3].running = false;
        assert_eq!(facts.base_now(&now, &uplink()), before, "pods come and go");
        now[0].running = false;
        assert_ne!(
            facts.base_now(&now, &uplink()),
            before,
            "the uplink's cable"
        );
        let moved = Uplink {
            index: 6,
            ..uplink()
        };
        assert_ne!(facts.base_now(&links(), &moved), before);
    }

    #[test]
    fn what_is_known_is_not_asked_again_and_what_is_not_wanted_forgotten() {
        let [a, b, c] = [1, 2, 3].map(|n| Ipv4Addr::new(192, 0, 2, n));
        let mut known = BTreeMap::from([(a, ()), (b, ())]);
        assert_eq!(
            unknown(&mut known, BTreeSet::from([b, c]), |_| false),
            BTreeSet::from([c])
        );
        let both = BTreeSet::from([b, c]);
        assert_eq!(unknown(&mut known, both.clone(), |_| true), both);
        assert_eq!(known.into_keys().collect::<Vec<_>>(), [b]);
    }

    /// All others would be asked with it, at each change of a lease.
    #[test]
    fn one_that_gives_no_answer_is_asked_again_alone() {
        let [a, b] = [1, 2].map(|n| Ipv4Addr::new(192, 0, 2, n));
        let answers = || {
            let silence = NetError::refused("find a route", Errno::ENOBUFS);
            vec![(a, Ok(RouteTo::default())), (b, Err(silence))]
        };
        let mut facts = Facts::default();
        facts.ways.insert(b, RouteTo::default());
        facts.hear_ways(answers());
        let silent = std::mem::take(&mut facts.unanswered);
        assert_eq!(silent, BTreeSet::from([b]));
        let again = |peer: &Ipv4Addr| silent.contains(peer);
        let both = BTreeSet::from([a, b]);
        assert_eq!(unknown(&mut facts.ways, both, again), BTreeSet::from([b]));
        facts.hear_on_link(answers());
        assert_eq!(facts.unanswered, BTreeSet::from([b]));
        assert_eq!(facts.on_link.into_keys().collect::<Vec<_>>(), [a]);
    }

    #[test]
    fn a_way_stays_known_until_the_kernel_says_otherwise() {
        let peer = Ipv4Addr::new(192, 0, 2, 1);
        let mut known = BTreeMap::from([(peer, 1)]);
        let failed = |errno| Err(NetError::refused("find a route", errno));
        for no_answer in [Errno::ENOBUFS, Errno::ENOMEM, Errno::ETIMEDOUT] {
            heard(&mut known, peer, failed(no_answer)).unwrap_err();
            assert_eq!(known[&peer], 1, "{no_answer}");
        }
        heard(&mut known, peer, Ok(2)).unwrap();
        assert_eq!(known[&peer], 2);
        heard(&mut known, peer, failed(Errno::ENETUNREACH)).unwrap_err();
        assert!(known.is_empty());
    }

    #[test]
    fn networks_beside_this_one_by_its_side_or_not() {
        let udp = |index: u32, name: &str, network: &str| Link {
            alias: Some(mark::alias(network)),
            ..fixtures::link(index, name)
        };
        let (own, other) = (udp(5, "flannel0", "own"), udp(7, "flannel1", "other"));
        let tunnel = udp(9, "flannel.1", "tunnel");
        let others = BTreeSet::from(["other".to_owned()]);
        assert_eq!(others_udp(&[other.clone(), tunnel.clone()], "own"), others);
        // Its own device says nothing about the port that it is to have from now on.
        assert_eq!(others_udp(&[own, other, tunnel], "own"), others);
    }
}
