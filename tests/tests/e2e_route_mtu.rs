//! A route to a peer with an MTU of its own: tunnel packets do not keep to it, and the log says so.

#![cfg(test)]

use flannel_tests::prelude::*;
use flannel_tests::ways::vxlan;

#[test]
fn a_route_that_carries_less_is_named_once() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let [one, two] = ["one", "two"].map(|name| Agent::start(lab.node(name), &net));
    let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&two, "pod2"));
    pod1.reaches(&pod2);
    let peer = two.node().address();
    let said = |mtu: u32| {
        let text = format!("the route to the peer {peer} has an MTU of {mtu} bytes");
        one.log().matches(&text).count()
    };
    assert_eq!(said(1300), 0);
    one.exec(&format!("ip route add {peer}/32 dev eth0 mtu 1300"));
    eventually("the log names the route", SOON, || said(1300) == 1);
    one.exec(&format!("ip route replace {peer}/32 dev eth0 mtu 1200"));
    eventually("and its change", SOON, || said(1200) == 1);
    assert_eq!(said(1300), 1);
}
