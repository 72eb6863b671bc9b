//! Ways to pods and through nodes that somebody else made, beside flannel's own.

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4};

use flannel_tests::pair::{Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::ways::{host_gw, vxlan};
use flannel_tests::{tcp, udp};
use rstest::rstest;

/// At the node itself, as a VPN's or a proxy's address is.
const AT_THE_NODE: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
/// Behind a pod of it.
const BEHIND_A_POD: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// A route of the operator's through the overlay: whom its next hop belongs to gets the packets, as flannel's device has it.
#[rstest]
fn a_route_by_the_tunnel_leads_to_the_node_of_its_next_hop(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
    #[values(&[], &["--ip-masq"])] flags: &[&str],
) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let pair = Pair::of_daemons_in(lab, net, mix, flags);
    let (one, two) = (pair.one.node(), pair.two.node());
    let gateway = pair.one.subnet().address(0);
    one.ip_batch(&[
        format!("addr add {AT_THE_NODE}/32 dev lo"),
        format!("route add {BEHIND_A_POD}/32 via {}", pair.pod1.address()),
    ]);
    pair.pod1
        .exec(&format!("ip addr add {BEHIND_A_POD}/32 dev lo"));
    for way in [AT_THE_NODE, BEHIND_A_POD] {
        two.exec(&format!(
            "ip route add {way}/32 via {gateway} dev flannel.1 onlink"
        ));
    }
    serves(&pair, one, AT_THE_NODE);
    serves(&pair, &pair.pod1, BEHIND_A_POD);
    // Without such a route nobody is reached.
    let nowhere = Ipv4Addr::new(10, 8, 0, 2);
    two.exec(&format!("ip route add {nowhere}/32 dev flannel.1"));
    assert_eq!(two.ping(nowhere).count(1).send().received, 0);
    assert_eq!(pair.pod2.ping(nowhere).count(1).send().received, 0);
}

/// To the other node and its pod.
#[track_caller]
fn serves(pair: &Pair<AnyDaemon>, server: &impl Host, to: Ipv4Addr) {
    pair.two.node().ping(to).succeeds();
    pair.pod2.ping(to).succeeds();
    let listener = tcp::Server::on(server);
    let at = SocketAddrV4::new(to, listener.port());
    listener.exchange(&pair.pod2, at, 1 << 20);
}

/// A container or virtual machine that has the node's uplink to itself by macvlan, and a route to another node's pods: this
/// node's stack never has its packets, nor has source NAT.
#[rstest]
fn who_shares_the_uplink_goes_by_as_itself(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
    #[values(vxlan(), vxlan().direct_routing(), host_gw())] net: Network,
) {
    let lab = Lab::new();
    let net = lab.network(net);
    let pair = Pair::of_daemons_in(lab, net, mix, &["--ip-masq"]);
    let lab = &pair.lab;
    let own = Ipv4Addr::new(172, 30, 0, 77);
    let machine = pair.one.node().pod_namespace("machine");
    pair.one.node().ip_batch(&[
        "link add mv0 link eth0 type macvlan mode bridge".to_owned(),
        format!("link set mv0 netns {}", machine.name()),
    ]);
    machine.ip_batch(&[
        format!("addr add {own}/24 dev mv0"),
        "link set mv0 up".to_owned(),
        format!(
            "route add {} via {}",
            pair.two.subnet(),
            pair.two.node().address()
        ),
    ]);
    let to = pair.pod2.address();
    machine.ping(to).succeeds();
    let listener = tcp::Server::on(&pair.pod2);
    let to = SocketAddrV4::new(to, listener.port());
    let seen = listener.exchange(&machine, to, 1 << 20);
    assert_eq!(seen.client.ip(), own);
    assert_eq!(
        udp::exchange(&machine, &pair.pod2, *to.ip(), 8192).ip(),
        own
    );
    // So do its own containers, whose addresses are the cluster's: a nested node's.
    let container = pair.net.subnets().last().expect("a subnet").address(9);
    machine.exec(&format!("ip addr add {container}/32 dev lo"));
    let three = lab.node("three");
    three.exec(&format!("ip route add {container} via {own}"));
    three.ping(container).succeeds();
    let nested = tcp::Server::on(&machine);
    let at = SocketAddrV4::new(container, nested.port());
    assert_eq!(
        nested.exchange(&three, at, 1 << 20).client.ip(),
        three.address()
    );
    udp::exchange(&three, &machine, container, 8192);

    // What the node itself forwards or sends is still translated where it was.
    let seen = listener.exchange(&pair.pod1, to, 1);
    assert_eq!(seen.client.ip(), pair.pod1.address());
}
