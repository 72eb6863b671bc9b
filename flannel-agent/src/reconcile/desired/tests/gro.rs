//! Where streams are merged.

use flannel_common::globals::{ANCHOR_FORWARDED, ANCHOR_NONE, ANCHOR_STACK};

use super::*;
use crate::base::options::{Gro, Hook, Mode};
use crate::dataplane::Attachment;
use crate::flannel::backend::Wire;
use crate::node::net::fixtures::link;
use crate::node::net::{Kind, Link};

const WIRE: Wire = Wire::Vxlan { vni: 1 };

fn node(change: impl FnOnce(&mut World)) -> Node {
    let mut world = World::default();
    change(&mut world);
    world.build().unwrap().node
}

#[test]
fn the_pair_merges_unless_something_else_is_asked_for() {
    let node = node(|_| ());
    assert_eq!(node.globals.gro, Gro::Pair);
    assert_eq!((node.anchor, node.globals.anchor), (None, ANCHOR_NONE));
    assert!(!node.programs.contains(&Program::AnchorRx));
    assert_eq!(
        (Gro::Pair.pair_mtu(1450), Gro::Pair.bulk_len(1450)),
        (1450, 1269)
    );
    for gro in [Gro::Anchor, Gro::None] {
        assert_eq!((gro.pair_mtu(1450), gro.bulk_len(1450)), (0, u32::MAX));
    }
}

/// The kernel's device drops what carries a mark.
#[test]
fn an_anchor_and_marks_in_the_tunnel_exclude_each_other() {
    let mut world = World {
        config: config(r#"{"Type":"vxlan","GBP":true}"#),
        ..World::default()
    };
    assert!(world.build().unwrap().node.globals.gbp);
    world.fast_path.gro = Gro::Anchor;
    assert_eq!(world.build(), Err(DesiredError::AnchorWithGbp));
}

#[test]
fn the_anchor_belongs_to_the_port_and_goes_with_the_pair() {
    let node = node(|world| {
        world.config = config(r#"{"Type":"vxlan","VNI":7,"Port":4789}"#);
        world.fast_path.gro = Gro::Anchor;
    });
    let anchor = node.anchor.unwrap();
    assert_eq!((anchor.name.as_str(), anchor.port), ("flanchor.4789", 4789));
    assert_eq!(anchor.lower, "flannel.7");
    let at = Attachment::ingress(Program::AnchorRx, "flanchor.4789");
    assert!(node.attachments.contains(&at) && node.programs.contains(&Program::AnchorRx));
}

#[test]
fn what_is_for_pods_is_left_to_it_where_the_bridge_would_cut_it_up() {
    let left = |mode, hook| {
        let node = node(|world| {
            world.fast_path.gro = Gro::Anchor;
            world.fast_path.mode = mode;
            world.fast_path.hook = hook;
        });
        node.globals.anchor
    };
    assert_eq!(left(Mode::Verified, Hook::Port), ANCHOR_FORWARDED);
    assert_eq!(left(Mode::Verified, Hook::Bridge), ANCHOR_STACK);
    assert_eq!(left(Mode::Always, Hook::Port), ANCHOR_STACK);
    assert_eq!(left(Mode::Off, Hook::Port), ANCHOR_STACK);
}

#[test]
fn there_is_none_without_a_tunnel_or_where_somebody_else_has_the_port() {
    let host_gw = node(|world| {
        world.config = config(r#"{"Type":"host-gw"}"#);
        world.fast_path.gro = Gro::Anchor;
    });
    assert_eq!(host_gw.anchor, None);
    let taken = node(|world| {
        world.fast_path.gro = Gro::Anchor;
        world.facts.port_holder = Some("other".to_owned());
    });
    assert_eq!((taken.anchor, taken.globals.anchor), (None, ANCHOR_NONE));
}

fn vxlan(name: &str, port: u16) -> Link {
    Link {
        kind: Kind::Vxlan {
            vni: Some(9),
            port: Some(port),
            lower: None,
        },
        ..link(9, name)
    }
}

#[test]
fn the_port_is_somebody_else_s_if_neither_we_nor_flanneld_made_the_device() {
    let held = |link: Link| super::super::gro::holder(&[link], WIRE, 8472);
    assert_eq!(
        held(vxlan("other", 8472)).as_deref(),
        Some("the kernel vxlan device other")
    );
    assert_eq!(held(vxlan("other", 4789)), None);
    let beside = [vxlan("flanchor.8472", 8472), vxlan("other", 8472)];
    assert_eq!(super::super::gro::holder(&beside, WIRE, 8472), None);
    for ours in ["flannel.1", "flold.1", "flanchor.8472"] {
        assert_eq!(held(vxlan(ours, 8472)), None, "{ours}");
    }
    let down = Link {
        up: false,
        ..vxlan("other", 8472)
    };
    assert_eq!(held(down), None, "the port is free");
    let strange = Link {
        alias: Some("somebody's".to_owned()),
        ..vxlan("flanchor.8472", 8472)
    };
    assert_eq!(
        held(strange).as_deref(),
        Some("the kernel vxlan device flanchor.8472")
    );
}
