//! The kernel's WireGuard device.

use std::net::{SocketAddr, SocketAddrV4};

use rstest::rstest;

use super::model::wireguard;
use super::*;
use crate::base::key::{Psk, PublicKey};
use crate::node::net::Path;
use crate::reconcile::actual::{SealedState, WireGuardDevice, WireGuardState};

const OWN: PublicKey = PublicKey([1; 32]);
const PEER: PublicKey = PublicKey([2; 32]);

fn world(options: &str) -> World {
    World {
        config: config(&format!(r#"{{"Type":"wireguard"{options}}}"#)),
        public_key: Some(OWN),
        ..World::default()
    }
}

fn lease(address: &str, key: PublicKey) -> LeaseAttrs {
    LeaseAttrs::wireguard(ip(address), Some(key), 51_820)
}

fn wanted() -> Desired {
    let world = world("").with("10.244.2.0/24", lease("192.168.0.2", PEER));
    world.build().unwrap()
}

fn running() -> Model {
    let mut model = Model::new(empty());
    model.converge(&wanted());
    model
}

#[test]
fn a_first_start_reads_as_a_story() {
    assert_eq!(
        words(&plan(&wanted(), &empty()).unwrap()),
        [
            "create flannel-wg (WireGuard, MTU 1420)",
            "set the alias of flannel-wg to flannel-ebpf:coreos_com_network",
            &format!(
                "tell flannel-wg: the key {OWN}; UDP port 51820; the peer 192.168.0.2:51820 with 10.244.2.0/24"
            ),
            "set flannel-wg up",
            "add 10.244.1.0/32 to flannel-wg",
            "add the route 10.244.0.0/16 by the tunnel",
        ]
    );
    let mut model = running();
    assert_eq!(plan(&wanted(), &model.actual).unwrap(), []);
    model.new_process();
    assert_eq!(
        plan(&wanted(), &model.actual).unwrap(),
        [],
        "no handshake is lost"
    );
}

/// As flanneld leaves it when it is killed.
#[test]
fn its_device_is_taken_as_it_is() {
    let peer = SealedState {
        endpoint: "192.168.0.2:51820".parse().ok(),
        allowed: ["10.244.2.0/24".parse().unwrap()].into(),
        ..SealedState::default()
    };
    let mut actual = empty();
    actual.wireguard = WireGuardDevice::There(WireGuardState {
        index: 7,
        aliased: false,
        mtu: 1420,
        up: true,
        addresses: ["10.244.1.0/32".parse().unwrap()].into(),
        public_key: Some(OWN),
        port: 51_820,
        peers: [(PEER, peer)].into(),
    });
    actual.routes = vec![Route {
        protocol: 3,
        paths: vec![Path {
            index: 7,
            gateway: None,
            dead: false,
        }],
        ..model::held(net("10.244.0.0/16"), 7, None, None)
    }];
    let steps = [
        "set the alias of flannel-wg to flannel-ebpf:coreos_com_network",
        "replace the route 10.244.0.0/16 by the tunnel",
    ];
    assert_eq!(words(&plan(&wanted(), &actual).unwrap()), steps);
    Model::new(actual).converge(&wanted());
}

#[test]
fn what_differs_is_told_and_nothing_else() {
    let told = |change: fn(&mut WireGuardState)| {
        let mut model = running();
        change(wireguard(&mut model.actual));
        let actions = plan(&wanted(), &model.actual).unwrap();
        model.converge(&wanted());
        words(&actions).join(" | ")
    };
    let peer = "tell flannel-wg: the peer 192.168.0.2:51820 with 10.244.2.0/24";
    assert_eq!(told(|state| state.peers.clear()), peer);
    assert_eq!(
        told(|state| state.peers.get_mut(&PEER).unwrap().keepalive = 7),
        peer
    );
    assert_eq!(
        told(|state| state.peers.get_mut(&PEER).unwrap().psk = Psk([7; 32])),
        peer
    );
    assert_eq!(
        told(|state| state.peers.get_mut(&PEER).unwrap().allowed.clear()),
        peer
    );
    assert_eq!(
        told(|state| state.port = 9),
        "tell flannel-wg: UDP port 51820"
    );
    assert_eq!(
        told(|state| state.public_key = None),
        format!("tell flannel-wg: the key {OWN}")
    );
    let stranger = |state: &mut WireGuardState| {
        state
            .peers
            .insert(PublicKey([9; 32]), SealedState::default());
    };
    let gone = PublicKey([9; 32]);
    assert_eq!(
        told(stranger),
        format!("tell flannel-wg: that the peer {gone} goes")
    );
}

/// What a peer proved to be is the kernel's to know.
#[test]
fn whoever_moved_is_left_where_he_is_unless_his_lease_says_so() {
    let mut model = running();
    let elsewhere: Option<SocketAddr> = "203.0.113.9:7".parse().ok();
    let told = |endpoint, heard| {
        SealedChanges::between(
            wanted().node.wireguard.as_ref().unwrap(),
            &wanted().peers.sealed,
            &{
                let mut state = wireguard(&mut running().actual).clone();
                let peer = state.peers.get_mut(&PEER).unwrap();
                (peer.endpoint, peer.heard, peer.keepalive) = (endpoint, heard, 3);
                state
            },
        )
        .unwrap()
        .put[&PEER]
            .towards
    };
    let lease_s: Option<SocketAddrV4> = "192.168.0.2:51820".parse().ok();
    assert_eq!(told(lease_s.map(Into::into), false), None, "it is there");
    assert_eq!(told(elsewhere, false), lease_s);
    assert_eq!(told(elsewhere, true), None, "it has proved where it is");
    assert_eq!(told(None, true), lease_s);
    let now = world("")
        .with("10.244.2.0/24", lease("192.168.0.3", PEER))
        .build()
        .unwrap();
    let change = SealedChanges::of_leases("d", &wanted().peers.sealed, &now.peers.sealed).unwrap();
    let towards = change.put[&PEER].towards;
    assert_eq!(towards, "192.168.0.3:51820".parse().ok());
    assert!(change.remove.is_empty());
    model.converge(&now);
}

/// Its key outlives an address that DHCP gave, and so does the lease of before, for a day.
#[rstest]
#[case::above("10.244.9.0/24")]
#[case::below("10.244.0.0/24")]
fn the_lease_that_came_last_says_where_a_node_is(#[case] new: &str) {
    let one = wanted().peers.sealed;
    let both = world("").with("10.244.2.0/24", lease("192.168.0.2", PEER));
    let both = both.with(new, lease("192.168.0.3", PEER)).build().unwrap();
    assert!(both.peers.ignored.is_empty());
    let both = both.peers.sealed;
    assert_eq!(both[&PEER].allowed, [net("10.244.2.0/24"), net(new)].into());
    let towards = |before, now| {
        let changes = SealedChanges::of_leases("d", before, now)?;
        changes.put[&PEER].towards
    };
    let [old_place, new_place] =
        ["192.168.0.2:51820", "192.168.0.3:51820"].map(|at| at.parse().ok());
    assert_eq!(towards(&one, &both), new_place);
    let alone = world("").with(new, lease("192.168.0.3", PEER)).build();
    let alone = alone.unwrap().peers.sealed;
    assert_eq!(towards(&both, &alone), new_place);
    assert_eq!(towards(&both, &one), old_place, "an impostor went");

    // A restart: the device is at either, and stays there.
    for place in [old_place, new_place] {
        let mut state = wireguard(&mut running().actual).clone();
        let held = state.peers.get_mut(&PEER).unwrap();
        held.endpoint = place.map(SocketAddr::V4);
        let wanted = wanted().node.wireguard.unwrap();
        let changes = SealedChanges::between(&wanted, &both, &state).unwrap();
        assert_eq!(changes.put[&PEER].towards, None);
    }
}

#[test]
fn a_new_key_of_a_peer_takes_the_place_of_the_old_one() {
    let other = PublicKey([3; 32]);
    let now = world("")
        .with("10.244.2.0/24", lease("192.168.0.2", other))
        .build()
        .unwrap();
    let change = SealedChanges::of_leases("d", &wanted().peers.sealed, &now.peers.sealed).unwrap();
    assert_eq!((change.remove, change.put.len()), ([PEER].into(), 1));
    let none = world("").build().unwrap();
    let gone = SealedChanges::of_leases("d", &now.peers.sealed, &none.peers.sealed).unwrap();
    assert_eq!((gone.remove, gone.put.len()), ([other].into(), 0));
    assert_eq!(
        SealedChanges::of_leases("d", &now.peers.sealed, &now.peers.sealed),
        None
    );
    let mut model = running();
    model.converge(&now);
    model.converge(&none);
}

#[test]
fn other_backends_come_and_go_before_and_after() {
    let mut model = Model::new(empty());
    let vxlan = super::wanted();
    let direct = World {
        config: config(r#"{"Type":"host-gw"}"#),
        ..World::default()
    };
    let direct = direct.with("10.244.2.0/24", LeaseAttrs::host_gw(ip("192.168.0.2")));
    let direct = direct.routed().build().unwrap();
    for desired in [&vxlan, &wanted(), &direct, &wanted(), &vxlan] {
        model.converge(desired);
    }
    assert_eq!(model.actual.wireguard, WireGuardDevice::Absent);
}

#[test]
fn somebody_elses_device_is_not_touched() {
    let mut actual = empty();
    actual.wireguard = WireGuardDevice::Foreign {
        why: "it is no WireGuard device".to_owned(),
    };
    let conflict = plan(&wanted(), &actual).unwrap_err().to_string();
    assert_eq!(
        conflict,
        "flannel-wg is in the way: it is no WireGuard device"
    );
}
