//! Nodes that come and go.

use flannel_tests::pair::{Kind, Mix, Pair, join};
use flannel_tests::prelude::*;
use rstest::rstest;

#[rstest]
fn three_nodes_talk_each_with_each(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let members = ["one", "two", "three"].map(|name| join(kind, lab.node(name), &net));
    let pods = members.each_ref().map(|member| Pod::on(member, "pod"));
    for from in &pods {
        for to in &pods {
            from.reaches(to);
        }
    }
}

#[rstest]
fn a_node_that_joins_is_reached_and_one_that_leaves_is_forgotten(
    #[values(Mix::Ours, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
    #[values(Kind::Ours, Kind::Flanneld)] joins: Kind,
) {
    let pair = Pair::new(mix);
    let third = join(joins, pair.lab.node("three"), &pair.net);
    let pod3 = Pod::on(&third, "pod3");
    pod3.reaches(&pair.pod1);
    pair.pod2.reaches(&pod3);

    let lease = pair.net.lease_key(third.subnet());
    // Its agent would take the lease again.
    drop(third);
    pair.lab.etcd().delete(&lease);
    eventually("nobody answers from the node that left", SOON, || {
        (0..3).all(|_| pair.pod1.ping(pod3.address()).count(1).send().received == 0)
    });
    pair.pod1.ping(pair.pod2.address()).succeeds();
}

#[rstest]
fn nodes_behind_a_router_are_reached_through_it(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let (near, far) = mix.kinds();
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let near = join(near, lab.node("near"), &net);
    let far = join(far, lab.node_behind_router("far"), &net);
    let (near, far) = (Pod::on(&near, "pod"), Pod::on(&far, "pod"));
    near.reaches(&far);
    assert_eq!(far.ping(near.address()).succeeds().ttl, Some(62));
}

#[rstest]
fn a_peer_that_changes_its_mac_and_address_is_followed(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let member = join(kind, lab.node("one"), &net);
    let peer = KernelVxlan::join(lab.node("peer"), &net);
    member.follow_leases();
    let (pod, far) = (Pod::on(&member, "pod"), Pod::on(&peer, "far"));
    pod.reaches(&far);

    peer.change_mac("c6:01:02:03:04:05");
    member.follow_leases();
    pod.reaches(&far);
    peer.change_address("172.30.0.99".parse().expect("an address"));
    member.follow_leases();
    pod.reaches(&far);
    far.ping(pod.address()).succeeds();
}
