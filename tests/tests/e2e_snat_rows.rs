//! flannel's table of who leaves as whom, row by row and both ways, with traffic.

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4};

use flannel_common::reason::Reason;
use flannel_tests::mirror::{Client, Mirror};
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::stage::{CLUSTER, Stage, counted, seen};
use flannel_tests::udp;
use rstest::rstest;

const PORT: u16 = 7000;

#[rstest]
fn k3_row_5_a_pod_reaches_the_outside_as_its_node(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let stage = Stage::on(kind);
    let server = stage.outside.address();
    assert_eq!(seen(&stage.pod, &stage.outside, server), stage.address());
    if let Some(agent) = stage.node.agent() {
        assert!(counted(agent, Reason::Snat) > 0);
        assert!(counted(agent, Reason::SnatReply) > 0);
    }
}

#[rstest]
fn k3_rows_2_and_3_pods_of_different_nodes_see_each_other(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let stage = Stage::on(kind);
    let other = stage.neighbour();
    let (here, there) = (stage.pod.address(), other.pod.address());
    assert_eq!(seen(&stage.pod, &other.pod, there), here);
    assert_eq!(seen(&other.pod, &stage.pod, here), there);
}

#[rstest]
fn k3_row_4_a_node_reaches_its_own_pod_as_itself(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = Stage::on(kind);
    let bridge = stage.node.subnet().address(1);
    assert_eq!(
        seen(stage.node.node(), &stage.pod, stage.pod.address()),
        bridge
    );
}

#[rstest]
fn k3_row_4_the_outside_reaches_a_pod_of_the_node_as_itself(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let stage = Stage::on(kind);
    let subnet = stage.node.subnet().to_string();
    stage.outside.routes_to(&subnet, &stage.node);
    // Its answers go out under its own address.
    stage.sniffer.allow_all(stage.pod.address());
    let pod = stage.pod.address();
    assert_eq!(
        seen(&stage.outside, &stage.pod, pod),
        stage.outside.address()
    );
    stage.outside.ping(pod).succeeds();
}

/// Row 6: else the answer would go from the other node straight to the outside, which knows no such connection.
#[rstest]
fn k3_row_6_the_outside_reaches_a_pod_of_another_node_as_the_node_in_between(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let stage = Stage::on(kind);
    let other = stage.neighbour();
    stage.outside.routes_to(CLUSTER, &stage.node);
    let pod = other.pod.address();
    stage.sniffer.allow_all(pod);
    assert_eq!(seen(&stage.outside, &other.pod, pod), stage.node.vtep());
    stage.outside.ping(pod).succeeds();
}

#[rstest]
fn k3_row_6_a_node_reaches_a_pod_of_another_node_as_its_vtep_whatever_it_binds(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let stage = Stage::on(kind);
    let other = stage.neighbour();
    let pod = other.pod.address();
    assert_eq!(seen(stage.node.node(), &other.pod, pod), stage.node.vtep());
    let mirror = Mirror::on(&other.pod, PORT);
    let to = SocketAddrV4::new(pod, mirror.port());
    let uplink = stage.address();
    let mut bound = Client::bound(stage.node.node(), SocketAddrV4::new(uplink, 0), to);
    assert_eq!(*bound.ask(1).ip(), stage.node.vtep());
    stage.node.node().ping(pod).bound_to(&uplink).succeeds();
}

#[rstest]
fn k3_row_5_a_pod_reaches_another_node_as_its_own(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let stage = Stage::on(kind);
    let other = stage.neighbour();
    let there = other.node.node().address();
    assert_eq!(seen(&stage.pod, other.node.node(), there), stage.address());
    stage.pod.ping(there).succeeds();
}

#[test]
fn exempt_destinations_see_the_pod_and_others_do_not() {
    let stage = Stage::with(&["--snat-exempt=172.30.0.0/24"]);
    let other = stage.neighbour(&[]);
    stage.sniffer.allow_all(stage.pod.address());
    let there = other.node.node().address();
    assert_eq!(
        seen(&stage.pod, other.node.node(), there),
        stage.pod.address()
    );
    assert!(stage.counted(Reason::SnatKept) > 0);
    let server = stage.outside.address();
    assert_eq!(seen(&stage.pod, &stage.outside, server), stage.address());
}

/// The bit says that the kernel masquerades: into ports of its own choice, here.
#[rstest]
fn k3_row_1_what_kube_proxy_marks_is_left_to_the_kernel(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let stage = Stage::on(kind);
    let node = stage.node.node();
    node.exec("iptables-nft -t mangle -A PREROUTING -i cni0 -j MARK --or-mark 0x4000");
    node.exec(
        "iptables-nft -t nat -A POSTROUTING -p udp -m mark --mark 0x4000/0x4000 -j MASQUERADE --to-ports 1500-1510",
    );
    let mirror = Mirror::on(&stage.outside, PORT);
    let to = stage.outside.at(mirror.port());
    for number in 0..5 {
        let seen = Client::udp(&stage.pod, 0, to).ask(number);
        assert_eq!(*seen.ip(), stage.address());
        assert!((1500..=1510).contains(&seen.port()), "{seen}");
    }
}

/// And where it does not, that is not mended.
#[rstest]
fn k3_row_1_a_mark_alone_keeps_the_source(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = Stage::on(kind);
    let node = stage.node.node();
    node.exec("iptables-nft -t mangle -A PREROUTING -i cni0 -j MARK --or-mark 0x4000");
    let _ = stage.pod.ping(stage.outside.address()).count(1).send();
    assert_eq!(stage.sniffer.wait_for_leak().source, stage.pod.address());
}

#[rstest]
fn multicast_keeps_its_source(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let stage = Stage::on(kind);
    let node = stage.node.node();
    let bridge = stage.node.subnet().address(1);
    let group = Ipv4Addr::new(224, 0, 0, 251);
    node.exec(&format!(
        "ip route add {group}/32 dev {} src {bridge}",
        Node::UPLINK
    ));
    let socket = udp::Server::on(node).into_socket();
    socket.send_to(b"anybody?", (group, 5353)).unwrap();
    let sight = stage.sniffer.wait_for_leak();
    assert_eq!((sight.source, sight.destination), (bridge, group));
}
