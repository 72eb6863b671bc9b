//! Somebody else changes the node under a running agent: it finds back by itself.

use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use rstest::rstest;

#[rstest]
#[case::device_deleted("ip link del flannel.1")]
#[case::device_down("ip link set flannel.1 down")]
#[case::gro_end_down("ip link set flgro.1 down")]
#[case::address_removed("ip addr flush dev flannel.1")]
#[case::route_removed("ip route del 10.244.0.0/16")]
#[case::uplink_flapped("ip link set eth0 down")]
fn what_was_taken_away_is_put_back(#[case] damage: &str) {
    let pair = Pair::new(Mix::Ours);
    let node = pair.one.node();
    node.exec(damage);
    if damage.contains("eth0") {
        node.exec("ip link set eth0 up");
    }
    pair.pod1.reaches(&pair.pod2);
    pair.pod2.reaches(&pair.pod1);
    let (vtep, to) = (pair.one.vtep(), pair.pod2.address());
    eventually("the host sends from its VTEP", SOON, || {
        node.exec(&format!("ip route get {to}"))
            .contains(&format!("dev flannel.1 src {vtep}"))
    });
}

#[test]
fn an_uplink_whose_mtu_changes_is_followed() {
    let pair = Pair::new(Mix::Ours);
    let node = pair.one.node();
    node.exec("ip link set eth0 mtu 1400");
    eventually("the device has 50 bytes less", SOON, || {
        node.exec("ip link show dev flannel.1").contains("mtu 1350")
    });
    eventually("subnet.env says so", SOON, || {
        pair.one.subnet_env().mtu == 1350
    });
    let report = pair
        .pod1
        .ping(pair.pod2.address())
        .whole(1400)
        .count(1)
        .send();
    assert_eq!(report.too_big, Some(1350), "{}", report.text);
}
