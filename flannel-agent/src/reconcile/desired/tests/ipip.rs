//! The backend ipip.

use flannel_common::globals::WIRE_IPIP;
use flannel_common::maps::BY_STACK;

use super::*;
use crate::base::options::{Gro, Xdp};

fn world(options: &str) -> World {
    World {
        config: config(&format!(r#"{{"Type":"ipip"{options}}}"#)),
        ..World::default()
    }
}

#[test]
fn a_node_as_flannel_makes_it() {
    let Desired { node, .. } = world("").build().unwrap();
    let pair = node.pair.as_ref().unwrap();
    assert_eq!((pair.name.as_str(), pair.mtu), ("flannel.ipip", 1480));
    assert_eq!(pair.gro_name, "flgro.ipip");
    assert_eq!(node.address, net("10.244.1.0/32"));
    assert_eq!((node.globals.wire, node.globals.port), (WIRE_IPIP, 0));
    assert_eq!(node.tag, crate::node::mark::tag("coreos_com_network"));
    // Checksums and segments are left to a device, as with vxlan.
    let near = &node.features["flannel.ipip"];
    assert_eq!(near.get("tx-checksum-ip-generic"), None);
    assert_eq!(near.get("tx-ipxip4-segmentation"), Some(&false));
}

#[test]
fn a_peer_is_known_by_its_address_alone() {
    let lease = LeaseAttrs::ipip(ip("192.168.0.2"));
    let world = world("").with("10.244.2.0/24", lease);
    let other = LeaseAttrs::udp(ip("192.168.0.3"));
    let Desired { peers, routes, .. } = world.with("10.244.3.0/24", other).build().unwrap();
    let peer = peers.table[&net("10.244.2.0/24")];
    assert_eq!((peer.vtep_mac, peer.by_stack), (MacAddr([0; 6]), false));
    assert!(peers.macs.is_empty() && peers.vteps.contains_key(&ip("192.168.0.2")));
    assert_eq!(routes[&net("10.244.2.0/24")], Way::Tunnel);
    let why = &peers.ignored[&net("10.244.3.0/24")];
    assert!(why.contains(r#""", not "ipip""#), "{why}");
}

/// Unless a rule may lead its protocol elsewhere, of which the kernel tells nothing.
#[test]
fn the_way_to_a_peer_says_next_hop_and_mtu() {
    let address = ip("192.168.0.2");
    let mut world = world("").with("10.244.2.0/24", LeaseAttrs::ipip(address));
    let peer = |world: &World| world.build().unwrap().peers.table[&net("10.244.2.0/24")];
    assert_eq!((peer(&world).next_hop, peer(&world).mtu), (address, None));
    world.facts.ways.get_mut(&address).unwrap().mtu = Some(1300);
    assert_eq!(peer(&world).mtu, Some(1280));
    world.facts.by_protocol = true;
    assert_eq!(peer(&world).next_hop, ROUTED);
    assert_eq!(peer(&world).mtu, Some(1280));
}

/// A rule of the host's firewall about its protocol.
#[test]
fn a_peer_that_the_firewall_refuses_is_the_stack_s() {
    let peer = ip("192.168.0.2");
    let mut world = world("").with("10.244.2.0/24", LeaseAttrs::ipip(peer));
    world.facts.refused.insert(peer);
    let Desired { peers, .. } = world.build().unwrap();
    assert!(peers.table[&net("10.244.2.0/24")].by_stack);
    assert_ne!(peers.vteps[&peer] & BY_STACK, 0);
}

#[test]
fn what_is_vxlan_s_alone_is_refused_by_name() {
    let mut world = world("");
    world.fast_path.xdp = Xdp::On;
    let error = world.build().unwrap_err().to_string();
    assert!(
        error.contains("--xdp=on") && error.contains("is ipip"),
        "{error}"
    );
    world.fast_path.xdp = Xdp::Auto;
    world.fast_path.gro = Gro::Anchor;
    let error = world.build().unwrap_err().to_string();
    assert!(
        error.contains("--gro=pair") && error.contains("is ipip"),
        "{error}"
    );
}
