mod bare;
mod bridge;
mod direct;
mod gro;
mod hidden;
mod ipip;
mod room;
mod udp;
mod wireguard;

use std::sync::Arc;

use flannel_common::program::Program;
use rstest::rstest;

use super::*;
use crate::base::mac::MacAddr;
use crate::base::options::Mode;
use crate::dataplane::{Attachment, Peer, ROUTED};
use crate::flannel::backend::Backend;
use crate::flannel::lease::LeaseAttrs;
use crate::node::direct::Direct;
use crate::node::net::{Branch, Direction, RouteTo, Towards};
use crate::node::snat_ports::{PortChoice, PortRange};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// A node 10.244.1.0/24 at 192.168.0.1 and what it knows; tests change a field and build.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) config: NetworkConfig,
    pub(crate) subnet: Ipv4Net,
    pub(crate) leases: BTreeMap<Ipv4Net, LeaseAttrs>,
    pub(crate) uplink: Uplink,
    pub(crate) facts: Facts,
    pub(crate) direct: BTreeMap<Ipv4Net, Hop>,
    pub(crate) fast_path: FastPath,
    pub(crate) snat: Option<SourceNat>,
    pub(crate) public_key: Option<PublicKey>,
}

impl Default for World {
    fn default() -> Self {
        let json = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
        Self {
            config: NetworkConfig::parse(json).unwrap(),
            subnet: net("10.244.1.0/24"),
            leases: BTreeMap::new(),
            uplink: Uplink {
                name: "eth0".to_owned(),
                index: 2,
                mtu: 1500,
                mac: [2, 0, 0, 0, 0, 9],
                address: ip("192.168.0.1"),
                public_ip: ip("192.168.0.1"),
                is_carrier: true,
                why: "test".to_owned(),
            },
            facts: Facts {
                local_ports: (32768, 60999),
                cpus: 4,
                ..Facts::default()
            },
            direct: BTreeMap::new(),
            fast_path: FastPath::default(),
            snat: None,
            public_key: None,
        }
    }
}

impl World {
    /// A lease of a neighbour.
    pub(crate) fn with(mut self, subnet: &str, attrs: LeaseAttrs) -> Self {
        let leg = Branch {
            index: self.uplink.index,
            towards: Towards::Neighbour,
            dead: false,
        };
        let way = RouteTo {
            legs: vec![leg],
            ..RouteTo::default()
        };
        self.facts.ways.insert(attrs.public_ip, way);
        self.leases.insert(net(subnet), attrs);
        self
    }

    /// Every lease of the backend has a route, as far as there are any.
    pub(crate) fn routed(mut self) -> Self {
        let leases = Arc::new(self.leases.clone());
        let addresses = leases.values().map(|attrs| attrs.public_ip);
        let on_link = addresses.map(|ip| (ip, Some(self.uplink.index))).collect();
        let direct = Direct::new(&self.config, self.subnet, &leases, &self.uplink, &on_link);
        self.direct = direct.routes;
        self
    }

    pub(crate) fn build(&self) -> Result<Desired, DesiredError> {
        Desired::new(&Inputs {
            network: "coreos_com_network",
            config: &self.config,
            subnet: self.subnet,
            leases: &Arc::new(self.leases.clone()),
            uplink: &self.uplink,
            direct: &self.direct,
            vtep_mac: MAC,
            public_key: self.public_key,
            facts: &self.facts,
            source_check: SourceCheck::Lease,
            fast_path: &self.fast_path,
            snat: self.snat.as_ref(),
        })
    }
}

pub(crate) fn config(backend: &str) -> NetworkConfig {
    let json = format!(r#"{{"Network":"10.244.0.0/16","Backend":{backend}}}"#);
    NetworkConfig::parse(&json).unwrap()
}

pub(crate) fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn lease(public_ip: &str) -> LeaseAttrs {
    LeaseAttrs::vxlan(ip(public_ip), 1, PEER_MAC)
}

fn hooks(attachments: &[Attachment]) -> Vec<(&str, &str, Direction)> {
    attachments
        .iter()
        .map(|a| (a.program.name(), a.device.as_str(), a.direction))
        .collect()
}

#[test]
fn a_node_as_flannel_makes_it() {
    let node = World::default().build().unwrap().node;
    let pair = node.pair.as_ref().unwrap();
    assert_eq!(pair.name, "flannel.1");
    assert_eq!(pair.gro_name, "flgro.1");
    assert_eq!((pair.mac, pair.mtu), (MAC, 1450));
    assert_eq!(pair.alias, "flannel-ebpf:coreos_com_network");
    assert_eq!(node.address, net("10.244.1.0/32"));
    assert_eq!(node.overlay, net("10.244.0.0/16"));
    assert_eq!(node.globals.port, 8472);
    assert_ne!(pair.gro_mac, pair.mac);
    let hooks = hooks(&node.attachments);
    assert_eq!(
        hooks,
        [
            ("overlay_catch", "flgro.1", Direction::Ingress),
            ("overlay_tx", "flannel.1", Direction::Egress),
            ("uplink_rx", "eth0", Direction::Ingress),
            ("overlay_rx", "flannel.1", Direction::Ingress),
        ]
    );
}

#[test]
fn the_fast_path_meets_each_pod_at_its_port() {
    let mut world = World::default();
    world.facts.pod_ports = Ports::from([("vetha".to_owned(), 7)]);
    let node = world.build().unwrap().node;
    let at_port: Vec<_> = node
        .attachments
        .iter()
        .filter(|a| a.device == "vetha")
        .map(|a| (a.program.name(), a.direction))
        .collect();
    assert_eq!(
        at_port,
        [
            ("pod_rx", Direction::Egress),
            ("pod_tx", Direction::Ingress)
        ]
    );
}

#[test]
fn the_programs_for_pods_are_loaded_before_there_is_a_pod() {
    let node = World::default().build().unwrap().node;
    assert!(
        node.programs
            .contains(&flannel_common::program::Program::PodTx)
    );
}

#[test]
fn switched_off_it_leaves_no_trace() {
    let mut world = World::default();
    world.fast_path.mode = Mode::Off;
    world.facts.pod_ports = Ports::from([("vetha".to_owned(), 7)]);
    let node = world.build().unwrap().node;
    assert_eq!(node.attachments.len(), 3);
    assert_eq!(node.programs.len(), 3);
    assert!(node.shared_sysctls.is_empty());
}

/// Nor beside a conntrack that would call its packets INVALID, unless the user answers for there being no rule about that.
#[rstest]
#[case::verified(Mode::Verified, Mode::Off)]
#[case::always(Mode::Always, Mode::Always)]
#[case::off(Mode::Off, Mode::Off)]
fn nothing_is_proven_beside_a_strict_conntrack(#[case] told: Mode, #[case] possible: Mode) {
    let mut world = World::default();
    world.fast_path.mode = told;
    world.facts.pod_ports = Ports::from([("vetha".to_owned(), 7)]);
    world.facts.strict = Some("/proc/sys is read-only".to_owned());
    let node = world.build().unwrap().node;
    assert_eq!(node.globals.fast_path, possible.value());
    world.fast_path.mode = possible;
    world.facts.strict = None;
    assert_eq!(node, world.build().unwrap().node);

    // Nor beside one that forgets it by the next packet that it is shown.
    world.fast_path.mode = told;
    world.facts.times.udp_stream = 5;
    assert_eq!(node, world.build().unwrap().node);
    world.facts.times.udp_stream = 10;
    let node = world.build().unwrap().node;
    assert_eq!(node.globals.fast_path, told.value());
}

#[test]
fn ports_of_source_nat_are_reserved() {
    let world = World {
        snat: Some(source_nat(50_000, 60_000, &[])),
        ..World::default()
    };
    let node = world.build().unwrap().node;
    let wish = &node.shared_sysctls["net/ipv4/ip_local_reserved_ports"];
    assert_eq!(wish.to_string(), "what it is and 50000-60000");
}

#[test]
fn no_ports_are_chosen_while_those_of_others_are_not_known() {
    let unknown = |ports| {
        let mut world = World {
            snat: Some(SourceNat {
                ports,
                ..source_nat(50_000, 60_000, &[])
            }),
            ..World::default()
        };
        world.facts.unknown_ports = Some("cannot read the file".to_owned());
        world.build()
    };
    let error = unknown(PortChoice::Auto).unwrap_err().to_string();
    assert!(
        error.contains("cannot read the file") && error.contains("--snat-ports"),
        "{error}"
    );
    let (min, max) = (50_000, 60_000);
    unknown(PortChoice::Fixed(PortRange { min, max })).unwrap();
}

pub(crate) fn source_nat(min: u16, max: u16, exempt: &[&str]) -> SourceNat {
    SourceNat {
        ports: PortChoice::Fixed(PortRange { min, max }),
        keeps_ports: false,
        exempt: exempt.iter().map(|text| net(text)).collect(),
    }
}

#[test]
fn source_nat_sits_on_the_uplink_and_on_the_overlay_and_has_its_steps() {
    let plain = World::default().build().unwrap().node;
    let world = World {
        snat: Some(source_nat(50_000, 60_000, &["192.168.0.0/16"])),
        ..World::default()
    };
    let node = world.build().unwrap().node;
    let hooks = hooks(&node.attachments[plain.attachments.len()..]);
    assert_eq!(
        hooks,
        [
            ("overlay_snat_rx", "flannel.1", Direction::Ingress),
            ("overlay_snat_tx", "flannel.1", Direction::Egress),
            ("uplink_snat_rx", "eth0", Direction::Ingress),
            ("uplink_tx", "eth0", Direction::Egress),
        ]
    );
    assert_eq!(
        node.programs.len(),
        plain.programs.len() + hooks.len() + Program::STEPS.len()
    );
    assert_eq!(
        node.globals.snat_ports.map(|p| p.to_string()),
        Some("50000-60000".to_owned())
    );
    assert_eq!(plain.globals.snat_ports, None);
}

#[test]
fn ways_of_others_matter_to_flows_that_are_proven() {
    let ways = |snat: bool, mode| {
        let mut world = World {
            snat: snat.then(|| source_nat(50_000, 60_000, &[])),
            ..World::default()
        };
        world.fast_path.mode = mode;
        world.facts.others_ways = 3;
        world.build().unwrap().node.ways
    };
    for snat in [true, false] {
        assert_eq!(ways(snat, Mode::Verified), 3);
        assert_eq!(ways(snat, Mode::Always), 3);
        assert_eq!(ways(snat, Mode::Off), 0);
    }
}

#[test]
fn source_nat_keeps_off_the_tunnels_port() {
    let world = World {
        snat: Some(source_nat(8_000, 9_000, &[])),
        ..World::default()
    };
    let error = world.build().unwrap_err().to_string();
    assert!(
        error.contains("--snat-ports=8000-9000") && error.contains("8472"),
        "{error}"
    );
}

#[test]
fn a_lease_becomes_a_peer_and_a_known_source() {
    let peers = World::default()
        .with("10.244.2.0/24", lease("192.168.0.2"))
        .build()
        .unwrap()
        .peers;
    let peer = Peer {
        public_ip: ip("192.168.0.2"),
        next_hop: ip("192.168.0.2"),
        vtep_mac: PEER_MAC,
        direct: false,
        by_stack: false,
        mtu: None,
    };
    assert_eq!(peers.table, BTreeMap::from([(net("10.244.2.0/24"), peer)]));
    assert_eq!(peers.vteps, BTreeMap::from([(ip("192.168.0.2"), 1)]));
}

#[test]
fn two_leases_of_one_address_count_twice() {
    let peers = World::default()
        .with("10.244.2.0/24", lease("192.168.0.2"))
        .with("10.244.3.0/24", lease("192.168.0.2"))
        .build()
        .unwrap()
        .peers;
    assert_eq!(peers.vteps, BTreeMap::from([(ip("192.168.0.2"), 2)]));
}

#[test]
fn a_peer_behind_a_gateway_is_sent_to_the_gateway() {
    let mut world = World::default().with("10.244.2.0/24", lease("172.16.0.2"));
    world.facts.ways.clear();
    let next_hop = |world: &World| {
        let peers = world.build().unwrap().peers;
        peers.table[&net("10.244.2.0/24")].next_hop
    };
    assert_eq!(next_hop(&world), ROUTED, "nobody knows the way");
    let leg = |index| Branch {
        index,
        towards: Towards::Gateway(ip("192.168.0.254")),
        dead: false,
    };
    for (legs, expected) in [
        (vec![leg(2)], ip("192.168.0.254")),
        (vec![leg(3)], ROUTED),
        (vec![leg(2), leg(3)], ROUTED),
    ] {
        let way = RouteTo {
            legs,
            ..RouteTo::default()
        };
        world.facts.ways.insert(ip("172.16.0.2"), way);
        assert_eq!(next_hop(&world), expected);
    }
}

#[test]
fn leases_that_cannot_be_used_are_ignored_with_a_reason() {
    let peers = World::default()
        .with("10.244.2.0/24", LeaseAttrs::host_gw(ip("192.168.0.2")))
        .with("10.244.3.0/24", lease("192.168.0.1"))
        .with("10.245.0.0/24", lease("192.168.0.5"))
        .with("10.244.4.0/24", lease("0.0.0.0"))
        .with("10.244.1.128/25", lease("192.168.0.6"))
        .build()
        .unwrap()
        .peers;
    assert!(
        peers.table.is_empty() && peers.vteps.is_empty(),
        "{peers:?}"
    );
    let why = |subnet| peers.ignored[&net(subnet)].as_str();
    assert!(why("10.244.2.0/24").contains("host-gw"));
    assert!(why("10.244.3.0/24").contains("address of this node"));
    assert!(why("10.245.0.0/24").contains("10.244.0.0/16"));
    assert!(why("10.244.4.0/24").contains("0.0.0.0"));
    assert!(why("10.244.1.128/25").contains("this node's own, 10.244.1.0/24"));
}

#[test]
fn our_own_lease_is_no_peer() {
    let peers = World::default()
        .with("10.244.1.0/24", lease("192.168.0.1"))
        .build()
        .unwrap()
        .peers;
    assert_eq!(peers, Peers::default());
}

#[test]
fn the_mtu_option_lowers_but_never_raises() {
    let with_mtu = |mtu: u32| {
        let json =
            format!(r#"{{"Network":"10.244.0.0/16","Backend":{{"Type":"vxlan","MTU":{mtu}}}}}"#);
        let world = World {
            config: NetworkConfig::parse(&json).unwrap(),
            ..World::default()
        };
        world.build().unwrap().node.pair.unwrap().mtu
    };
    assert_eq!(with_mtu(1400), 1350);
    assert_eq!(with_mtu(9000), 1450);
}

#[test]
fn what_this_node_cannot_do_is_named() {
    let build = |config: NetworkConfig| {
        let world = World {
            config,
            ..World::default()
        };
        world.build().unwrap_err().to_string()
    };
    let parse = |json| NetworkConfig::parse(json).unwrap();
    let mut config = parse(r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#);
    if let Backend::Vxlan(options) = &mut config.backend {
        options.vni = 16_777_215;
    }
    let error = build(config);
    assert!(error.contains("16777215"), "{error}");
    let error = build(parse(
        r#"{"Network":"10.9.0.0/16","Backend":{"Type":"vxlan"}}"#,
    ));
    assert!(
        error.contains("10.244.1.0/24") && error.contains("10.9.0.0/16"),
        "{error}"
    );
}

#[test]
fn it_prints_as_json() {
    let desired = World::default()
        .with("10.244.2.0/24", lease("192.168.0.2"))
        .build()
        .unwrap();
    let json = serde_json::to_value(&desired).unwrap();
    assert_eq!(json["node"]["pair"]["mac"], "02:00:00:00:00:01");
    assert_eq!(json["node"]["attachments"][1]["program"], "overlay_tx");
    assert_eq!(
        json["peers"]["table"]["10.244.2.0/24"]["public_ip"],
        "192.168.0.2"
    );
}

/// Whatever sends to the nodes themselves needs ways to them; with host-gw each peer is its own next hop.
#[rstest]
#[case::vxlan(r#"{"Type":"vxlan"}"#, 1)]
#[case::udp(r#"{"Type":"udp"}"#, 1)]
#[case::ipip(r#"{"Type":"ipip"}"#, 1)]
#[case::wireguard(r#"{"Type":"wireguard"}"#, 1)]
#[case::host_gw(r#"{"Type":"host-gw"}"#, 0)]
#[case::alloc(r#"{"Type":"alloc"}"#, 0)]
fn ways_are_looked_up_to_whom_is_sent_to(#[case] backend: &str, #[case] asked: usize) {
    let leases = Arc::new(BTreeMap::from([(
        net("10.244.2.0/24"),
        lease("192.168.0.2"),
    )]));
    assert_eq!(destinations(&config(backend), &leases).len(), asked);
}
