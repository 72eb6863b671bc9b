//! Steps that put something right, told from those of a new wish in the same plan.

use super::*;
use crate::reconcile::desired::Ports;
use crate::reconcile::plan::repairs;

fn world() -> World {
    let peer = LeaseAttrs::vxlan(ip("192.168.0.2"), 1, MacAddr([2, 0, 0, 0, 0, 2]));
    World::default().with("10.244.2.0/24", peer)
}

/// What is repaired, in words, when the node was as `before` wanted it, somebody changed it, and now `wanted` counts.
fn repaired(before: &World, wanted: &World, somebody: fn(&mut Actual)) -> Vec<String> {
    let (before, wanted) = (before.build().unwrap(), wanted.build().unwrap());
    let mut model = Model::new(empty());
    model.converge(&before);
    somebody(&mut model.actual);
    let actions = plan(&wanted, &model.actual).unwrap();
    words(&repairs(&before, &wanted, &model.actual, &actions))
}

fn with_port(mut world: World, index: u32) -> World {
    world.facts.pod_ports = Ports::from([("vetha".to_owned(), index)]);
    world
}

fn with_peer(world: World) -> World {
    let peer = LeaseAttrs::vxlan(ip("192.168.0.3"), 1, MacAddr([2, 0, 0, 0, 0, 3]));
    world.with("10.244.3.0/24", peer)
}

#[test]
fn without_a_new_wish_all_that_is_done_is_a_repair() {
    let lost = |actual: &mut Actual| {
        actual.programs.attached.retain(|at, _| at.device != "eth0");
        actual.routes.clear();
        actual.peers.table.clear();
        let stale = Stale::Pin("uplink_rx-3".to_owned());
        actual.programs.stale.insert(stale);
    };
    assert_eq!(
        repaired(&world(), &world(), lost),
        [
            "update peers: 10.244.2.0/24 at 192.168.0.2 (02:00:00:00:00:02)",
            "add the route 10.244.2.0/24 by the tunnel",
            "attach uplink_rx to ingress of eth0",
            "detach uplink_rx-3",
        ]
    );
    assert!(repaired(&world(), &world(), |_| ()).is_empty());
    // It is made and loaded anew, and all of that is a repair but for the proofs.
    let loses_all = |actual: &mut Actual| *actual = empty();
    let all = repaired(&world(), &world(), loses_all);
    assert!(all[0].starts_with("create flannel.1"), "{all:?}");
    assert!(!all.contains(&"end the proofs of all flows".to_owned()));
}

#[test]
fn beside_a_new_pod_or_peer_only_what_was_undone_is_one() {
    let lost = |actual: &mut Actual| {
        actual.programs.attached.retain(|at, _| at.device != "eth0");
        actual.routes.clear();
    };
    let two = [
        "add the route 10.244.2.0/24 by the tunnel",
        "attach uplink_rx to ingress of eth0",
    ];
    assert_eq!(repaired(&world(), &with_port(world(), 7), lost), two);
    let both = repaired(&world(), &with_peer(world()), lost);
    assert!(both[0].starts_with(two[0]) && both[1] == two[1], "{both:?}");
    assert_eq!(both.len(), 2);
    assert!(repaired(&world(), &with_port(world(), 7), |_| ()).is_empty());
    assert!(repaired(&world(), &with_peer(world()), |_| ()).is_empty());
    assert!(repaired(&with_peer(world()), &world(), |_| ()).is_empty());
}

#[test]
fn a_lost_entry_that_is_written_with_a_new_one_counts() {
    let written = |somebody: fn(&mut Actual)| repaired(&world(), &with_peer(world()), somebody);
    let one = written(|actual| actual.peers.table.clear());
    assert!(one[0].starts_with("update peers: 10.244.2.0/24"), "{one:?}");
    assert_eq!(written(|actual| actual.peers.vteps.clear()).len(), 1);
    let foreign = |actual: &mut Actual| {
        let nobody_s = net("10.244.9.0/24");
        actual.peers.table.insert(nobody_s, None);
    };
    assert_eq!(written(foreign).len(), 1);
    let vtep = |actual: &mut Actual| {
        actual.peers.vteps.insert(ip("192.0.2.9"), 1);
    };
    assert_eq!(written(vtep).len(), 1);
}

#[test]
fn what_goes_with_a_device_or_comes_with_new_constants_is_none() {
    let port_went = |actual: &mut Actual| {
        actual
            .programs
            .attached
            .retain(|at, _| at.device != "vetha");
        let stale = Stale::Pin("pod_tx-7".to_owned());
        actual.programs.stale.insert(stale);
    };
    let one = with_port(world(), 7);
    assert!(repaired(&one, &world(), port_went).is_empty());
    let again = with_port(world(), 8);
    let done = repaired(&one, &again, port_went);
    assert!(!done.iter().any(|a| a.contains("vetha")), "{done:?}");

    let mut other = world();
    other.facts.local_ports = (1024, 2048);
    let lost = |actual: &mut Actual| actual.routes.clear();
    assert!(repaired(&world(), &other, lost).is_empty());
    other = world();
    other.config = config(r#"{"Type":"vxlan","VNI":2}"#);
    assert!(repaired(&world(), &other, |_| ()).is_empty());
}
