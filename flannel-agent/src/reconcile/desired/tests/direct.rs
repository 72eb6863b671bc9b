//! Peers without a tunnel.

use super::*;
use crate::base::options::Mode;

fn hooks(node: &Node) -> Vec<(&'static str, &str)> {
    let hooks = node.attachments.iter();
    hooks
        .map(|a| (a.program.name(), a.device.as_str()))
        .collect()
}

#[test]
fn host_gw_has_the_fast_path_and_no_tunnel() {
    let mut world = World {
        config: config(r#"{"Type":"host-gw"}"#),
        ..World::default()
    }
    .with("10.244.2.0/24", LeaseAttrs::host_gw(ip("192.168.0.2")))
    .routed();
    world.facts.pod_ports = Ports::from([("vetha".to_owned(), 7)]);
    let Desired { node, peers, .. } = world.build().unwrap();
    assert_eq!(node.pair, None);
    assert!(node.sysctls.is_empty() && node.features.is_empty());
    assert_eq!((node.globals.vni, node.globals.overlay_mtu), (0, 1500));
    assert_eq!(
        hooks(&node),
        [
            ("direct_rx", "eth0"),
            ("direct_tx", "eth0"),
            ("pod_rx", "vetha"),
            ("pod_tx", "vetha"),
        ]
    );
    let peer = peers.table[&net("10.244.2.0/24")];
    assert!(
        peer.direct && peer.next_hop == ip("192.168.0.2"),
        "{peer:?}"
    );

    world.fast_path.mode = Mode::Off;
    let node = world.build().unwrap().node;
    assert!(node.attachments.is_empty() && node.programs.is_empty());
}

#[test]
fn alloc_has_nothing_but_with_source_nat() {
    let mut world = World {
        config: config(r#"{"Type":"alloc"}"#),
        ..World::default()
    }
    .with("10.244.2.0/24", LeaseAttrs::alloc(ip("192.168.0.2")))
    .routed();
    world.facts.pod_ports = Ports::from([("vetha".to_owned(), 7)]);
    let Desired {
        node,
        peers,
        routes,
    } = world.build().unwrap();
    assert_eq!((node.pair, node.anchor), (None, None));
    assert!(node.attachments.is_empty() && node.programs.is_empty());
    assert_eq!(peers, Peers::default());
    assert_eq!(routes, Routes::default());
    assert_eq!(node.globals.overlay_mtu, 1500);
}

#[test]
fn direct_routing_has_both_ways() {
    let mut world = World {
        config: config(r#"{"Type":"vxlan","DirectRouting":true}"#),
        ..World::default()
    }
    .with("10.244.2.0/24", lease("192.168.0.2"))
    .with("10.244.3.0/24", lease("172.16.0.3"))
    .with("10.244.4.0/24", lease("192.168.9.4"));
    let hop = |via, index| Hop {
        via: ip(via),
        index,
    };
    world.direct = BTreeMap::from([
        (net("10.244.2.0/24"), hop("192.168.0.2", 2)),
        // A neighbour on another link than the uplink, where no program of ours is.
        (net("10.244.4.0/24"), hop("192.168.9.4", 9)),
    ]);
    let Desired { node, peers, .. } = world.build().unwrap();
    let hooks = hooks(&node);
    for hook in [
        ("uplink_rx", "eth0"),
        ("direct_rx", "eth0"),
        ("direct_tx", "eth0"),
    ] {
        assert!(hooks.contains(&hook), "{hooks:?}");
    }
    let direct = |subnet| peers.table[&net(subnet)].direct;
    assert!(direct("10.244.2.0/24"));
    assert!(!direct("10.244.3.0/24") && !direct("10.244.4.0/24"));
    assert_eq!(peers.vteps.len(), 3, "any of them may send by the tunnel");
}

#[test]
fn source_nat_of_host_gw_sits_on_the_uplink_alone() {
    let world = World {
        config: config(r#"{"Type":"host-gw"}"#),
        snat: Some(source_nat(50_000, 60_000, &[])),
        ..World::default()
    };
    let node = world.build().unwrap().node;
    let hooks = hooks(&node);
    assert!(hooks.contains(&("uplink_snat_rx", "eth0")) && hooks.contains(&("uplink_tx", "eth0")));
    assert!(
        hooks.iter().all(|(_, device)| *device == "eth0"),
        "{hooks:?}"
    );
}
