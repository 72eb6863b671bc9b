//! Who leaves as whom where neighbours are reached without a tunnel (DirectRouting, host-gw), and replies that come back
//! another way than the packet left.

#![cfg(test)]

use std::net::Ipv4Addr;

use flannel_common::program::Program::{OverlayRx, OverlaySnatTx, UplinkRx};
use flannel_common::reason::Reason;
use flannel_tests::bpftool::count;
use flannel_tests::mirror::{Client, Mirror};
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::stage::{CLUSTER, Neighbour, Stage, counted, seen};
use rstest::rstest;

const PORT: u16 = 7000;

fn direct_routing() -> Network {
    Network::vxlan("/coreos.com/network", CLUSTER).direct_routing()
}

fn host_gw() -> Network {
    Network::host_gw("/coreos.com/network", CLUSTER)
}

fn stage(kind: Kind, net: Network) -> (Stage<AnyDaemon>, Neighbour<AnyDaemon>) {
    let stage = Stage::on_net(kind, net);
    let other = stage.neighbour();
    for (node, pod, peer) in [
        (&stage.node, &other.pod, &other.node),
        (&other.node, &stage.pod, &stage.node),
    ] {
        // The default route leads out of eth0 as well, by another gateway.
        let words = format!("via {} dev eth0", peer.node().address());
        eventually("the route of a neighbour", SOON, || {
            let way = node.exec(&format!("ip route get {}", pod.address()));
            way.contains(&words)
        });
    }
    (stage, other)
}

#[rstest]
#[case::direct_routing(direct_routing())]
#[case::host_gw(host_gw())]
fn the_table_holds_without_a_tunnel(
    #[case] net: Network,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let (stage, other) = stage(kind, net);
    let (here, there) = (stage.pod.address(), other.pod.address());
    // Until the route was there, pings took the tunnel.
    let before = stage.node.agent().map(tunnelled);
    // Row 5, to the outside and to another node; rows 2 and 3.
    let server = stage.outside.address();
    assert_eq!(seen(&stage.pod, &stage.outside, server), stage.address());
    stage.pod.ping(server).succeeds();
    let node = other.node.node().address();
    assert_eq!(seen(&stage.pod, other.node.node(), node), stage.address());
    assert_eq!(seen(&stage.pod, &other.pod, there), here);
    assert_eq!(seen(&other.pod, &stage.pod, here), there);
    if let Some(agent) = stage.node.agent() {
        assert_eq!(count(agent, UplinkRx, Reason::DecapGro), 0, "no tunnel");
    }
    assert_eq!(stage.node.agent().map(tunnelled), before, "no tunnel");
}

/// Packets that came by a tunnel, whatever became of them: small ones by themselves, large ones, and those past the stack.
fn tunnelled(agent: &Agent) -> u64 {
    let decapsulated = [Reason::DecapGro, Reason::DecapDirect, Reason::FastRx];
    let at_uplink = decapsulated.map(|reason| count(agent, UplinkRx, reason));
    at_uplink.iter().sum::<u64>() + count(agent, OverlayRx, Reason::FastRxGro)
}

/// Row 4: a client outside sees the pod's own address, and the pod the client's.
#[rstest]
#[case::direct_routing(direct_routing())]
#[case::host_gw(host_gw())]
fn the_outside_reaches_a_pod_of_the_node_as_itself(
    #[case] net: Network,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let (stage, _other) = stage(kind, net);
    stage
        .outside
        .routes_to(&stage.node.subnet().to_string(), &stage.node);
    stage.sniffer.allow_all(stage.pod.address());
    let pod = stage.pod.address();
    assert_eq!(
        seen(&stage.outside, &stage.pod, pod),
        stage.outside.address()
    );
    stage.outside.ping(pod).succeeds();
}

/// Row 6: by the uplink and not into a tunnel, so under the uplink's address. The reply comes back by this node.
#[rstest]
#[case::direct_routing(direct_routing())]
#[case::host_gw(host_gw())]
fn the_outside_reaches_a_neighbours_pod_as_the_node_in_between(
    #[case] net: Network,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let (stage, other) = stage(kind, net);
    stage.outside.routes_to(CLUSTER, &stage.node);
    let pod = other.pod.address();
    // Its answer to the node in between.
    other.sniffer.allow_all(pod);
    stage.sniffer.allow_all(pod);
    assert_eq!(seen(&stage.outside, &other.pod, pod), stage.address());
    stage.outside.ping(pod).succeeds();
    if let Some(agent) = stage.node.agent() {
        assert!(counted(agent, Reason::SnatReply) > 0);
    }
}

/// The neighbour is behind the tunnel from one moment to the next, for this node: one from the outside to its pod leaves
/// under the tunnel's address, and the neighbour, for which nothing changed, answers without the tunnel. A flow to the outside
/// does not care.
#[test]
fn a_neighbour_that_goes_behind_a_router_is_reached_as_the_vtep() {
    let (stage, other) = stage(Kind::Ours, direct_routing());
    let neighbour = other.node.node().address();
    stage.outside.routes_to(CLUSTER, &stage.node);
    let pod = other.pod.address();
    other.sniffer.allow_all(pod);
    stage.sniffer.allow_all(pod);
    let mirror = Mirror::on(&stage.outside, PORT);
    let mut out = Client::tcp(&stage.pod, stage.outside.at(mirror.port())).unwrap();
    out.ask(1);
    stage
        .node
        .exec(&format!("ip route add {neighbour}/32 via 172.30.0.254"));
    eventually("the tunnel takes over", SOON, || {
        let way = stage.node.exec(&format!("ip route get {pod}"));
        way.contains("dev flannel.1")
    });
    assert_eq!(seen(&stage.outside, &other.pod, pod), stage.node.vtep());
    let agent = stage.node.agent().unwrap();
    assert!(count(agent, OverlaySnatTx, Reason::Snat) > 0);
    out.ask(2);
}

/// A second wire between the node and the router.
fn second_wire(stage: &Stage) {
    let (node, router) = (stage.node.node(), stage.lab.router());
    for netns in [node.netns(), router] {
        for scope in ["all", "default"] {
            netns.sysctl(&format!("net.ipv4.conf.{scope}.rp_filter"), 0);
        }
    }
    node.ip_batch(&[
        format!(
            "link add eth1 type veth peer name side netns {}",
            router.name()
        ),
        "addr add 192.168.77.1/24 dev eth1".to_owned(),
        "link set eth1 up".to_owned(),
    ]);
    router.ip_batch(&[
        "addr add 192.168.77.2/24 dev side".to_owned(),
        "link set side up".to_owned(),
    ]);
    node.sysctl("net.ipv4.conf.eth1.rp_filter", 0);
    eventually("programs at the second wire", SOON, || {
        stage
            .node
            .log()
            .contains("attach uplink_tx to egress of eth1")
    });
}

/// What left by the uplink is answered by way of the second wire.
#[test]
fn replies_to_the_uplinks_address_may_come_by_another_device() {
    let stage = Stage::new();
    second_wire(&stage);
    let mirror = Mirror::on(&stage.outside, PORT);
    let to = stage.outside.at(mirror.port());
    let mut clients = [
        Client::tcp(&stage.pod, to).unwrap(),
        Client::udp(&stage.pod, 0, to),
    ];
    let mut seen = clients.each_mut().map(|client| client.ask(0));
    let back = format!(
        "ip route replace {}/32 via 192.168.77.1 dev side",
        stage.address()
    );
    stage.lab.router().run(&back);
    let came = Capture::start(stage.node.node(), "eth1", &format!("src host {}", to.ip()));
    for number in 1..20 {
        assert_eq!(clients.each_mut().map(|client| client.ask(number)), seen);
    }
    // New ones, as well; and ICMP.
    clients = [
        Client::tcp(&stage.pod, to).unwrap(),
        Client::udp(&stage.pod, 0, to),
    ];
    seen = clients.each_mut().map(|client| client.ask(20));
    assert_eq!(seen.map(|seen| *seen.ip()), [stage.address(); 2]);
    stage.pod.ping(stage.outside.address()).succeeds();
    came.packets(20);
}

/// What left by the second wire under its address is answered by way of the uplink: the pod gets it all the same, and nothing
/// leaves as the pod.
#[test]
fn replies_to_another_devices_address_may_come_by_any() {
    let stage = Stage::new();
    second_wire(&stage);
    let mirror = Mirror::on(&stage.outside, PORT);
    let to = stage.outside.at(mirror.port());
    stage
        .node
        .exec("ip route add 198.51.100.0/24 via 192.168.77.2 dev eth1");
    let leaks = Capture::start(stage.node.node(), "eth1", &format!("src net {CLUSTER}"));
    let mut client = Client::tcp(&stage.pod, to).unwrap();
    assert_eq!(*client.ask(1).ip(), Ipv4Addr::new(192, 168, 77, 1));
    let back = format!(
        "ip route replace 192.168.77.1/32 via {} dev switch",
        stage.address()
    );
    stage.lab.router().run(&back);
    let replies = stage.counted(Reason::SnatReply);
    assert_eq!(*client.ask(2).ip(), Ipv4Addr::new(192, 168, 77, 1));
    assert!(stage.counted(Reason::SnatReply) > replies);
    leaks.saw_nothing();
    let back = "ip route del 192.168.77.1/32 dev switch";
    stage.lab.router().run(back);
    assert_eq!(
        *Client::tcp(&stage.pod, to).unwrap().ask(3).ip(),
        Ipv4Addr::new(192, 168, 77, 1)
    );
}
