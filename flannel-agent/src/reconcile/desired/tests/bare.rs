//! Devices without a link-layer header.

use super::*;
use crate::base::options::Xdp;
use crate::dataplane::outlets::Sources;

fn at(world: &World, device: &str) -> Vec<&'static str> {
    let node = world.build().unwrap().node;
    let there = node.attachments.iter().filter(|at| at.device == device);
    there.map(|at| at.program.name()).collect()
}

#[test]
fn packets_that_arrive_are_made_frames_first_and_once() {
    let mut world = World {
        snat: Some(source_nat(50_000, 60_000, &[])),
        ..World::default()
    };
    world.facts.bare = ["eth0".to_owned()].into();
    let all = ["frame_rx", "uplink_rx", "uplink_snat_rx", "uplink_tx_ip"];
    assert_eq!(at(&world, "eth0"), all);
    world.snat = None;
    assert_eq!(at(&world, "eth0"), all[..2]);
}

#[test]
fn an_outlet_beside_the_uplink() {
    let mut world = World {
        snat: Some(source_nat(50_000, 60_000, &[])),
        ..World::default()
    };
    let outlet = Outlet {
        index: 7,
        sources: Sources::only(ip("100.64.0.1")),
    };
    world.facts.outlets.devices = [("wg0".to_owned(), outlet)].into();
    world.facts.bare = ["wg0".to_owned()].into();
    assert_eq!(
        at(&world, "wg0"),
        ["frame_rx", "uplink_snat_rx", "uplink_tx_ip"]
    );
    assert_eq!(
        at(&world, "eth0"),
        ["uplink_rx", "uplink_snat_rx", "uplink_tx"]
    );
}

/// Nothing there tells for whom a packet leaves, and no driver has frames.
#[test]
fn nothing_goes_past_the_stack_without_a_tunnel_nor_at_the_driver() {
    let mut world = World {
        config: config(r#"{"Type":"vxlan","DirectRouting":true}"#),
        ..World::default()
    };
    world.fast_path.xdp = Xdp::On;
    world.facts.bare = ["eth0".to_owned()].into();
    assert_eq!(at(&world, "eth0"), ["frame_rx", "uplink_rx"]);
}
