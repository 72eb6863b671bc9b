//! More peers than there is room for.

use super::*;

/// Peers 10.244.`n`.0/24 at 192.168.0.`n`, but 2 and 3 share a node.
fn world(peers: &[u8]) -> World {
    peers.iter().fold(World::default(), |world, n| {
        let host = (*n).max(3);
        let attrs = LeaseAttrs::vxlan(
            Ipv4Addr::new(192, 168, 0, host),
            1,
            MacAddr([2, 0, 0, 0, 0, host]),
        );
        world.with(&format!("10.244.{n}.0/24"), attrs)
    })
}

fn thirds<T>(of: &BTreeMap<Ipv4Net, T>) -> Vec<u8> {
    of.keys().map(|subnet| subnet.addr().octets()[2]).collect()
}

#[test]
fn who_has_room_keeps_it_and_who_has_none_is_named() {
    let desired = world(&[2, 3, 4, 5, 6]).build().unwrap();
    let held = [net("10.244.4.0/24"), net("10.244.6.0/24")];
    let fits = desired.clone().within(3, |subnet| held.contains(subnet));
    assert_eq!(thirds(&fits.peers.table), [2, 4, 6]);
    assert_eq!(thirds(&fits.routes), [2, 4, 6]);
    assert_eq!(thirds(&fits.peers.ignored), [3, 5]);
    let why = &fits.peers.ignored[&net("10.244.5.0/24")];
    assert!(why.contains("room for 3 peers"), "{why}");
    let named = |host| fits.peers.vteps.get(&Ipv4Addr::new(192, 168, 0, host));
    assert_eq!((named(3), named(4), named(5)), (Some(&1), Some(&1), None));
    let macs: Vec<u8> = fits.peers.macs.keys().map(|mac| mac.0[5]).collect();
    assert_eq!(macs, [3, 4, 6]);

    assert_eq!(desired.clone().within(5, |_| false), desired);
    let nobody = desired.within(0, |_| true);
    assert_eq!((nobody.peers.table.len(), nobody.peers.vteps.len()), (0, 0));
}

#[test]
fn a_peer_that_goes_makes_room() {
    let held = [net("10.244.4.0/24"), net("10.244.6.0/24")];
    let desired = world(&[2, 5, 6]).build().unwrap();
    let fits = desired.within(2, |subnet| held.contains(subnet));
    assert_eq!(thirds(&fits.peers.table), [2, 6]);
}

#[test]
fn without_a_tunnel_the_kernel_forwards_alone() {
    let mut world = world(&[]);
    world.config =
        NetworkConfig::parse(r#"{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}"#)
            .unwrap();
    for n in [2, 3] {
        let attrs = LeaseAttrs::host_gw(Ipv4Addr::new(192, 168, 0, n));
        world.leases.insert(net(&format!("10.244.{n}.0/24")), attrs);
    }
    let fits = world.routed().build().unwrap().within(1, |_| false);
    assert_eq!(thirds(&fits.peers.table), [2]);
    assert_eq!(thirds(&fits.routes), [2, 3]);
}
