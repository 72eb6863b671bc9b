//! The backend udp.

use flannel_common::globals::WIRE_UDP;

use super::*;
use crate::base::options::{Gro, Xdp};

fn world(options: &str) -> World {
    World {
        config: config(&format!(r#"{{"Type":"udp"{options}}}"#)),
        ..World::default()
    }
}

#[test]
fn a_node_as_flannel_makes_it() {
    let Desired { node, .. } = world("").build().unwrap();
    let pair = node.pair.as_ref().unwrap();
    assert_eq!((pair.name.as_str(), pair.mtu), ("flannel0", 1472));
    assert_eq!(pair.gro_name, "flgro0");
    assert_eq!(node.address, net("10.244.1.0/32"));
    assert_eq!((node.globals.wire, node.globals.port), (WIRE_UDP, 8285));
    assert_eq!(node.tag, crate::node::mark::tag("coreos_com_network"));
    // What is left to a device would never be done.
    let near = &node.features["flannel0"];
    for offload in [
        "tx-checksum-ip-generic",
        "tx-checksum-sctp",
        "tx-tcp-segmentation",
    ] {
        assert_eq!(near.get(offload), Some(&false), "{offload}");
    }
    let other = world(r#","Port":7000"#).build().unwrap();
    assert_eq!(other.node.globals.port, 7000);
}

#[test]
fn a_peer_is_known_by_its_address_alone() {
    let lease = LeaseAttrs::udp(ip("192.168.0.2"));
    let world = world("").with("10.244.2.0/24", lease);
    let other = LeaseAttrs::vxlan(ip("192.168.0.3"), 1, PEER_MAC);
    let Desired { peers, routes, .. } = world.with("10.244.3.0/24", other).build().unwrap();
    let peer = peers.table[&net("10.244.2.0/24")];
    assert_eq!(peer.vtep_mac, MacAddr([0; 6]));
    assert!(peers.macs.is_empty() && peers.vteps.contains_key(&ip("192.168.0.2")));
    assert!(routes.contains_key(&net("10.244.2.0/24")));
    // What nobody leases is answered for.
    assert_eq!(routes[&net("10.244.0.0/16")], Way::Tunnel);
    let why = &peers.ignored[&net("10.244.3.0/24")];
    assert!(why.contains(r#""vxlan", not "udp""#), "{why}");
}

#[test]
fn what_is_vxlan_s_alone_is_refused_and_xdp_left_out() {
    let mut world = world("");
    let attached = |world: &World| {
        let node = world.build().unwrap().node;
        node.attachments.iter().any(|at| at.program.is_xdp())
    };
    world.fast_path.xdp = Xdp::Auto;
    assert!(!attached(&world));
    world.fast_path.xdp = Xdp::On;
    let error = world.build().unwrap_err().to_string();
    assert!(error.contains("--xdp=auto"), "{error}");
    world.fast_path.xdp = Xdp::Off;
    world.fast_path.gro = Gro::Anchor;
    let error = world.build().unwrap_err().to_string();
    assert!(error.contains("--gro=pair"), "{error}");
}
