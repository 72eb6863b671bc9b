//! Peers whose address our routes would lead into the tunnel.

use super::*;

const B: &str = "10.244.2.0/24";
const C: &str = "10.244.3.0/24";

fn leg(towards: Towards) -> Vec<Branch> {
    let leg = Branch {
        index: 2,
        towards,
        dead: false,
    };
    vec![leg]
}

/// As the kernel has it for `peer`, but for our routes.
fn by(world: &mut World, peer: &str, in_main: Option<u8>) {
    let way = RouteTo {
        legs: leg(Towards::Neighbour),
        in_main,
        ..RouteTo::default()
    };
    world.facts.ways.insert(ip(peer), way);
}

fn served(world: &World) -> (Vec<String>, Vec<String>) {
    let Desired { peers, routes, .. } = world.build().unwrap();
    let mut nets: Vec<String> = peers.table.keys().map(ToString::to_string).collect();
    let routed: Vec<String> = routes.keys().map(ToString::to_string).collect();
    assert_eq!(nets, routed);
    assert_eq!(peers.vteps.len(), nets.len());
    nets.sort();
    let ignored = peers.ignored.values().cloned().collect();
    (nets, ignored)
}

#[rstest]
#[case::by_default(Some(0), true)]
#[case::by_a_wider_route(Some(16), true)]
#[case::beside_ours(Some(24), false)]
#[case::by_a_route_of_its_own(Some(32), false)]
#[case::by_another_table(None, false)]
fn who_is_inside_anothers_subnet_is_left_out_where_our_route_is_the_narrowest(
    #[case] in_main: Option<u8>,
    #[case] out: bool,
) {
    let mut world = World::default()
        .with(B, lease("192.168.0.2"))
        .with(C, lease("10.244.2.7"));
    by(&mut world, "10.244.2.7", in_main);
    let (nets, ignored) = served(&world);
    assert_eq!(nets.len(), 2 - usize::from(out), "{nets:?} {ignored:?}");
    assert!(nets.contains(&B.to_owned()));
    assert!(
        !out || ignored[0].contains("10.244.2.7 is inside 10.244.2.0/24"),
        "{ignored:?}"
    );
}

/// Once our route is there the kernel names that.
#[test]
fn it_is_the_same_before_and_behind_our_routes() {
    let mut world = World::default()
        .with(B, lease("192.168.0.2"))
        .with(C, lease("10.244.2.7"));
    by(&mut world, "10.244.2.7", Some(0));
    let before = served(&world);
    let ours = RouteTo {
        legs: leg(Towards::Gateway(TUNNEL)),
        in_main: Some(24),
        ours: true,
        ..RouteTo::default()
    };
    world.facts.ways.insert(ip("10.244.2.7"), ours);
    assert_eq!(served(&world), before);
    // What was asked while the route was there says nothing once its peer is gone.
    world.leases.remove(&net(B));
    assert_eq!(served(&world).0, [C]);
}

#[test]
fn two_that_hide_each_other_do_not_come_and_go() {
    let mut world = World::default()
        .with(B, lease("10.244.3.7"))
        .with(C, lease("10.244.2.7"));
    for peer in ["10.244.2.7", "10.244.3.7"] {
        by(&mut world, peer, Some(0));
    }
    let (nets, ignored) = served(&world);
    assert!(nets.is_empty() && ignored.len() == 2, "{nets:?}");
}

#[test]
fn who_is_inside_our_own_subnet_is_left_out() {
    let mut world = World::default().with(B, lease("10.244.1.7"));
    // The bridge's.
    by(&mut world, "10.244.1.7", Some(24));
    let (nets, ignored) = served(&world);
    assert!(
        nets.is_empty() && ignored[0].contains("this node's own subnet"),
        "{ignored:?}"
    );
    by(&mut world, "10.244.1.7", Some(32));
    assert_eq!(served(&world).0, [B]);
}

/// The nodes of a Network that is as large as all private addresses.
#[test]
fn who_is_in_network_and_in_nobodys_subnet_is_a_peer() {
    let mut world = World::default().with(B, lease("10.244.200.2"));
    by(&mut world, "10.244.200.2", Some(0));
    assert_eq!(served(&world).0, [B]);
}

#[test]
fn a_neighbour_that_is_hidden_has_no_route_either() {
    let json = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}"#;
    let mut world = World {
        config: NetworkConfig::parse(json).unwrap(),
        ..World::default()
    }
    .with(B, lease("192.168.0.2"))
    .with(C, lease("10.244.2.7"))
    .routed();
    by(&mut world, "10.244.2.7", Some(16));
    assert_eq!(world.direct.len(), 2);
    assert_eq!(served(&world).0, [B]);
}

/// The same, where that route is by the neighbour's own address.
#[test]
fn a_direct_route_of_ours_does_not_let_in_who_was_left_out() {
    let json = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}"#;
    let mut world = World {
        config: NetworkConfig::parse(json).unwrap(),
        ..World::default()
    }
    .with(B, lease("192.168.0.2"))
    .with(C, lease("10.244.2.7"));
    world = world.routed();
    world.direct.remove(&net(C));
    let way = |ours| RouteTo {
        legs: leg(Towards::Gateway(ip("192.168.0.2"))),
        in_main: Some(24),
        ours,
        ..RouteTo::default()
    };
    world.facts.ways.insert(ip("10.244.2.7"), way(true));
    assert_eq!(served(&world).0, [B]);
    world.facts.ways.insert(ip("10.244.2.7"), way(false));
    assert_eq!(served(&world).0, [B, C], "somebody else's");
}

/// Its route for the whole Network leads there what nobody leases.
#[test]
fn with_udp_network_itself_hides() {
    let mut world = World {
        config: config(r#"{"Type":"udp"}"#),
        ..World::default()
    }
    .with(B, LeaseAttrs::udp(ip("10.244.200.2")));
    let is_ignored = |world: &World| world.build().unwrap().peers.ignored.len() == 1;
    by(&mut world, "10.244.200.2", Some(0));
    assert!(is_ignored(&world));
    by(&mut world, "10.244.200.2", Some(24));
    assert!(!is_ignored(&world));
}
