//! Which routes are made, replaced, put in front, removed and left.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use rstest::rstest;

use super::*;
use crate::node::direct::Hop;
use crate::node::net::Path;
use crate::reconcile::desired::{TUNNEL, Way};
use crate::reconcile::plan::routes;

/// `flannel.1`, and flanneld's device that was put aside.
const PAIR: u32 = 7;
const ASIDE: u32 = 60;

fn route(destination: &str, by: &str, index: u32, protocol: u8) -> Route {
    let gateway = (!by.is_empty()).then(|| ip(by));
    Route {
        destination: net(destination),
        paths: vec![Path {
            index,
            gateway,
            dead: false,
        }],
        source: (gateway == Some(TUNNEL)).then(|| ip("10.244.1.0")),
        metric: 0,
        protocol,
    }
}

/// Ours, into the tunnel.
fn tunnel(destination: &str) -> Route {
    route(destination, "169.254.0.1", PAIR, PROTOCOL)
}

/// The changes, in words, from `held` to what one peer, 10.244.2.0/24 behind 192.168.0.2, wants.
fn planned(direct: bool, held: &[Route]) -> Vec<String> {
    let peer = LeaseAttrs::vxlan(ip("192.168.0.2"), 1, MacAddr([2, 0, 0, 0, 0, 2]));
    let mut world = World::default().with("10.244.2.0/24", peer);
    if direct {
        let hop = Hop {
            via: ip("192.168.0.2"),
            index: 2,
        };
        world.direct.insert(net("10.244.2.0/24"), hop);
    }
    let desired = world.build().unwrap();
    let wanted = routes::Wanted {
        desired: &desired,
        tunnel: PAIR,
        source: Some(ip("10.244.1.0")),
    };
    let (first, last) = routes::between(&wanted, held);
    let parts = [first, last].into_iter().filter(|part| !part.is_empty());
    parts.map(|part| part.to_string()).collect()
}

#[rstest]
#[case::nothing_there(vec![], &["add the route 10.244.2.0/24 by the tunnel"])]
#[case::right_already(vec![tunnel("10.244.2.0/24")], &[])]
#[case::another_device(
    vec![route("10.244.2.0/24", "169.254.0.1", 9, PROTOCOL)],
    &["replace the route 10.244.2.0/24 by the tunnel"]
)]
#[case::without_a_tunnel_until_now(
    vec![route("10.244.2.0/24", "192.168.0.2", 2, PROTOCOL)],
    &["replace the route 10.244.2.0/24 by the tunnel"]
)]
#[case::flannelds_tunnel(
    vec![route("10.244.2.0/24", "10.244.2.0", ASIDE, 3)],
    &["replace the route 10.244.2.0/24 by the tunnel"]
)]
#[case::flannelds_without_tunnel(
    vec![route("10.244.2.0/24", "192.168.0.2", 2, 3)],
    &["replace the route 10.244.2.0/24 by the tunnel"]
)]
#[case::an_operators(
    vec![route("10.244.2.0/24", "192.168.0.77", 2, 3)],
    &["add the route 10.244.2.0/24 by the tunnel, in front of somebody else's (protocol 3), which stays"]
)]
#[case::a_bridge_of_an_earlier_subnet(
    vec![route("10.244.2.0/24", "", 5, 2)],
    &["add the route 10.244.2.0/24 by the tunnel, in front of somebody else's (protocol 2), which stays"]
)]
#[case::in_front_already(vec![tunnel("10.244.2.0/24"), route("10.244.2.0/24", "", 5, 2)], &[])]
#[case::somebody_came_in_front(
    vec![route("10.244.2.0/24", "", 5, 2), tunnel("10.244.2.0/24")],
    &["remove the route 10.244.2.0/24, add the route 10.244.2.0/24 by the tunnel, \
       in front of somebody else's (protocol 2), which stays"]
)]
#[case::the_one_route_of_an_earlier_version_goes_last(
    vec![route("10.244.0.0/16", "", PAIR, PROTOCOL)],
    &["add the route 10.244.2.0/24 by the tunnel", "remove the route 10.244.0.0/16"]
)]
#[case::a_peer_that_left(
    vec![tunnel("10.244.2.0/24"), tunnel("10.244.3.0/24")],
    &["remove the route 10.244.3.0/24"]
)]
#[case::what_others_have_beside_it_stays(
    vec![tunnel("10.244.2.0/24"), route("10.244.2.7/32", "192.168.0.9", 2, 3), route("10.244.0.0/16", "", 5, 4),
      route("10.244.9.0/24", "192.168.0.9", 2, 12), route("0.0.0.0/0", "192.168.0.254", 2, 3)],
    &[]
)]
#[case::other_networks_routes_stay(
    vec![tunnel("10.244.2.0/24"), route("10.9.2.0/24", "192.168.0.9", 2, PROTOCOL),
      route("10.9.3.0/24", "169.254.0.1", 9, PROTOCOL)],
    &[]
)]
fn by_the_tunnel(#[case] held: Vec<Route>, #[case] changes: &[&str]) {
    assert_eq!(planned(false, &held), changes);
}

#[rstest]
#[case::nothing_there(vec![], &["add the route 10.244.2.0/24 via 192.168.0.2"])]
#[case::rt1_right_already(vec![route("10.244.2.0/24", "192.168.0.2", 2, PROTOCOL)], &[])]
#[case::rt1_a_changed_gateway_is_replaced(
    vec![route("10.244.2.0/24", "192.168.0.9", 2, PROTOCOL)],
    &["replace the route 10.244.2.0/24 via 192.168.0.2"]
)]
#[case::another_uplink(
    vec![route("10.244.2.0/24", "192.168.0.2", 5, PROTOCOL)],
    &["replace the route 10.244.2.0/24 via 192.168.0.2"]
)]
#[case::by_the_tunnel_until_now(
    vec![tunnel("10.244.2.0/24")],
    &["replace the route 10.244.2.0/24 via 192.168.0.2"]
)]
#[case::flannelds_route_becomes_ours(
    vec![route("10.244.2.0/24", "192.168.0.2", 2, 3)],
    &["replace the route 10.244.2.0/24 via 192.168.0.2"]
)]
#[case::a_routing_daemons_stays_behind_ours(
    vec![route("10.244.2.0/24", "192.168.0.9", 2, 12)],
    &["add the route 10.244.2.0/24 via 192.168.0.2, in front of somebody else's (protocol 12), which stays"]
)]
#[case::a_peer_that_left(
    vec![route("10.244.2.0/24", "192.168.0.2", 2, PROTOCOL), route("10.244.3.0/24", "192.168.0.3", 2, PROTOCOL)],
    &["remove the route 10.244.3.0/24"]
)]
fn without_a_tunnel(#[case] held: Vec<Route>, #[case] changes: &[&str]) {
    assert_eq!(planned(true, &held), changes);
}

#[test]
fn a_change_of_leases_is_compared_with_the_one_before() {
    let by = |last| {
        Way::Direct(Hop {
            via: Ipv4Addr::new(192, 168, 0, last),
            index: 2,
        })
    };
    let before = BTreeMap::from([
        (net("10.244.2.0/24"), Way::Tunnel),
        (net("10.244.3.0/24"), Way::Tunnel),
        (net("10.244.4.0/24"), by(4)),
    ]);
    let now = BTreeMap::from([
        (net("10.244.3.0/24"), by(3)),
        (net("10.244.4.0/24"), by(4)),
        (net("10.244.5.0/24"), Way::Tunnel),
    ]);
    let changes = RouteChanges::of_leases(&before, &now, ip("10.244.1.0"));
    assert_eq!(
        changes.to_string(),
        "remove the route 10.244.2.0/24, replace the route 10.244.3.0/24 via 192.168.0.3, \
         add the route 10.244.5.0/24 by the tunnel"
    );
    assert_eq!(
        changes.set[&net("10.244.5.0/24")].source,
        Some(ip("10.244.1.0"))
    );
    assert_eq!(changes.set[&net("10.244.3.0/24")].source, None);
}

#[test]
fn many_are_counted() {
    let to = |n| Ipv4Net::new(Ipv4Addr::new(10, 244, n, 0), 24).unwrap();
    let mut changes = RouteChanges::default();
    for n in 2..10 {
        let how = match n {
            2 => How::InFront { protocol: 4 },
            _ => How::Add,
        };
        let set = Set {
            way: Way::Tunnel,
            source: None,
            how,
        };
        changes.set.insert(to(n), set);
    }
    assert_eq!(
        changes.to_string(),
        "set 8 routes and remove 0; 1 of them in front of somebody else's"
    );
}
