use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use flannel_common::program::Program;
use flannel_common::snat::Times;
use ipnet::Ipv4Net;
use proptest::prelude::*;

use super::model::{Model, empty, held};
use crate::base::mac::MacAddr;
use crate::base::options::Gro;
use crate::dataplane::outlets::Sources;
use crate::dataplane::{Generation, Peer, PeerMaps, Stale};
use crate::flannel::lease::LeaseAttrs;
use crate::node::net::{PROTOCOL, Route};
use crate::reconcile::actual::{Actual, Device, PairState};
use crate::reconcile::desired::tests::{World, config, source_nat};
use crate::reconcile::desired::{Desired, Outlet, TUNNEL};

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 5]>().prop_map(|[b, c, d, e, f]| MacAddr([2, b, c, d, e, f]))
}

fn lease() -> impl Strategy<Value = LeaseAttrs> {
    (2..250u8, mac(), any::<bool>()).prop_map(|(host, mac, vxlan)| {
        let ip = Ipv4Addr::new(192, 168, 0, host);
        if vxlan {
            LeaseAttrs::vxlan(ip, 1, mac)
        } else {
            LeaseAttrs::host_gw(ip)
        }
    })
}

const BACKENDS: [&str; 4] = [
    r#"{"Type":"vxlan"}"#,
    r#"{"Type":"vxlan","VNI":2,"Port":4789}"#,
    r#"{"Type":"vxlan","DirectRouting":true}"#,
    r#"{"Type":"host-gw"}"#,
];

/// Another backend, uplink, own subnet and set of peers each time.
fn desired() -> impl Strategy<Value = Desired> {
    let leases = prop::collection::btree_map(2..250u8, lease(), 0..20);
    let exempt = prop::collection::btree_set(exempt(), 0..3);
    let snat = prop::option::of((40_000..50_000u16, exempt, outlets()));
    let uplink = (2..4u32, 600..9000u32);
    let backend = prop::sample::select(&BACKENDS[..]);
    let gro = prop::sample::select(&[Gro::Pair, Gro::Anchor, Gro::None][..]);
    (leases, 1..5u8, uplink, snat, backend, gro).prop_map(
        |(leases, own, (index, mtu), snat, backend, gro)| {
            let mut world = World {
                subnet: Ipv4Net::new(Ipv4Addr::new(10, 244, own, 0), 24).unwrap(),
                config: config(backend),
                ..World::default()
            };
            world.uplink.index = index;
            world.uplink.name = format!("eth{index}");
            world.uplink.mtu = mtu;
            world.fast_path.gro = gro;
            world.snat = snat.map(|(min, exempt, outlets)| {
                for (index, sources) in outlets {
                    let outlet = Outlet { index, sources };
                    let devices = &mut world.facts.outlets.devices;
                    devices.insert(format!("out{index}"), outlet);
                }
                let mut snat = source_nat(min, 60_000, &[]);
                snat.exempt = exempt;
                snat
            });
            for (third, attrs) in leases {
                world = world.with(&format!("10.244.{third}.0/24"), attrs);
            }
            world.routed().build().unwrap()
        },
    )
}

fn outlets() -> impl Strategy<Value = BTreeMap<u32, Sources>> {
    let address = (1..5u8).prop_map(|n| Sources::only(Ipv4Addr::new(192, 0, 2, n)));
    prop::collection::btree_map(20..24u32, address, 0..3)
}

fn exempt() -> impl Strategy<Value = Ipv4Net> {
    (0..8u8, 16..25u8).prop_map(|(n, len)| {
        let net = Ipv4Net::new(Ipv4Addr::new(198, 51, n, 0), len).unwrap();
        net.trunc()
    })
}

fn peer_maps() -> impl Strategy<Value = PeerMaps> {
    let peer = (any::<u32>(), any::<u32>(), mac()).prop_map(|(ip, hop, vtep_mac)| Peer {
        public_ip: ip.into(),
        next_hop: hop.into(),
        vtep_mac,
        direct: false,
        by_stack: false,
        mtu: None,
    });
    let subnet = any::<u8>().prop_map(|n| Ipv4Net::new([10, 244, n, 0].into(), 24).unwrap());
    (
        prop::collection::btree_map(subnet, prop::option::of(peer), 0..20),
        prop::collection::btree_map(any::<u32>().prop_map(Ipv4Addr::from), 1..3u32, 0..10),
        prop::collection::btree_map(mac(), 1..3u32, 0..10),
    )
        .prop_map(|(table, vteps, macs)| PeerMaps { table, vteps, macs })
}

fn pair_state() -> impl Strategy<Value = PairState> {
    let address = (0..250u8, prop::sample::select(vec![244u8, 9]))
        .prop_map(|(n, second)| Ipv4Net::new([10, second, n, 0].into(), 32).unwrap());
    (
        any::<[bool; 3]>(),
        prop::option::of(mac()),
        (600..9000u32, 600..9000u32),
        prop::option::of(60_000..200_000u32),
        prop::collection::btree_set(address, 0..3),
    )
        .prop_map(
            |([aliased, up, gro_up], mac, mtus, gso_max, addresses)| PairState {
                index: 7,
                gro_index: 8,
                aliased,
                mac,
                mtu: mtus.0,
                gro_mtu: mtus.1,
                gso_max,
                up,
                gro_up,
                wrong_sysctls: BTreeMap::from([("net/x".to_owned(), "1".to_owned())]),
                wrong_features: BTreeMap::new(),
                addresses,
            },
        )
}

/// Routes of ours into the tunnel or without one, flanneld's, and somebody else's: at most one of each kind to a
/// destination, in any order. A device that is down or not there has none.
fn routes() -> impl Strategy<Value = Vec<Route>> {
    let route = (0..250u8, 16..25u8, 0..4u8).prop_map(|(third, len, kind)| {
        let len = if len > 17 { 24 } else { len };
        let to = Ipv4Net::new(Ipv4Addr::new(10, 244, third, 0), len)
            .unwrap()
            .trunc();
        let source = Some([10, 244, 1, 0].into());
        let (route, protocol) = match kind {
            0 => (held(to, 7, Some(TUNNEL), source), PROTOCOL),
            1 => (held(to, 2, Some([192, 168, 0, 9].into()), None), PROTOCOL),
            2 => (held(to, 60, Some(to.network()), None), 3),
            _ => (held(to, 2, None, None), 12),
        };
        Route { protocol, ..route }
    });
    prop::collection::vec(route, 0..30).prop_map(|routes| {
        let mut seen = BTreeSet::new();
        let mut routes = routes;
        routes.retain(|r| seen.insert((r.destination, r.protocol)));
        routes
    })
}

fn device() -> impl Strategy<Value = Device> {
    prop_oneof![
        Just(Device::Absent),
        Just(Device::KernelTunnel {
            mac: None,
            up: true
        }),
        Just(Device::Broken {
            device: "flgro.1".to_owned()
        }),
        pair_state().prop_map(Device::Ours),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whatever_is_there_becomes_what_is_wanted(
        desired in desired(),
        device in device(),
        aside in any::<bool>(),
        peers in peer_maps(),
        stale in prop::collection::btree_set("[a-z]{3}-[0-9]", 0..3),
        exempt in prop::collection::btree_set(exempt(), 0..3),
        outlets in outlets(),
        udp in prop::option::of(1..3u32),
        former in prop::collection::btree_set("flannel\\.[89]", 0..3),
        routes in routes(),
        steps in prop::collection::btree_set(prop::sample::select(&Program::STEPS[..]), 0..3),
        has_maps: bool,
    ) {
        let mut actual = Actual { device, aside, peers, exempt, outlets, ..empty() };
        actual.former = former;
        actual.snat_times = udp.map(|udp| Times { udp, ..Times::DEFAULT });
        actual.programs.steps = steps.into_iter().map(|s| (s, Generation::Earlier)).collect();
        actual.programs.stale = stale.into_iter().map(Stale::Pin).collect();
        actual.programs.has_maps = has_maps;
        actual.programs.old_layouts = BTreeMap::from([("v0".to_owned(), true)]);
        if desired.node.pair.is_none() {
            actual.device = Device::Absent;
            actual.aside = false;
        }
        for attachment in &desired.node.attachments {
            actual.programs.attached.insert(attachment.clone(), Generation::Earlier);
        }
        let pair_up = matches!(&actual.device, Device::Ours(pair) if pair.up);
        actual.routes = routes;
        actual.routes.retain(|r| pair_up || !r.leads_by(7));
        let mut model = Model::new(actual);
        model.converge(&desired);
    }

    #[test]
    fn one_wanted_state_follows_another(states in prop::collection::vec(desired(), 2..5)) {
        let mut model = Model::new(empty());
        for desired in &states {
            model.converge(desired);
        }
    }
}
