//! The ways that the agent finds: what the kernel says of real tables and rules.

#![cfg(test)]

use std::net::{Ipv4Addr, Ipv6Addr};

use flannel_agent::node::net::{NetError, Netlink, RouteChange, RouteTo, Sender, Towards};
use flannel_tests::netns::Netns;
use flannel_tests::sweep;
use flannel_tests::wait::{SOON, eventually};

const PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const OURS: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);

/// eth0 with an address, and eth1 with another.
fn netns() -> Netns {
    let netns = Netns::create(&sweep::unique_name());
    for (device, index, address) in [
        ("eth0", 10, "192.168.0.2/24"),
        ("eth1", 11, "192.168.1.2/24"),
    ] {
        let peer = format!("far{index}");
        netns.run(&format!(
            "ip link add {device} index {index} type veth peer name {peer}"
        ));
        netns.run(&format!("ip addr add {address} dev {device}"));
        netns.run(&format!("ip link set {device} up"));
        netns.run(&format!("ip link set {peer} up"));
    }
    netns
}

const TUNNEL: Sender = Sender {
    source: Some(OURS),
    udp_port: Some(8472),
};

fn way(netns: &Netns, sender: Sender) -> Result<RouteTo, String> {
    netns.block_on(async || {
        let net = Netlink::open().unwrap();
        net.way(PEER, sender).await.map_err(|e| e.to_string())
    })
}

fn legs(way: &RouteTo) -> Vec<(u32, Towards)> {
    way.legs.iter().map(|l| (l.index, l.towards)).collect()
}

#[test]
fn the_source_and_the_port_choose_the_table() {
    let netns = netns();
    netns.run("ip route add default via 192.168.1.1");
    netns.run("ip route add default via 192.168.0.1 table 100");
    let other = [(11, Towards::Gateway(Ipv4Addr::new(192, 168, 1, 1)))];
    assert_eq!(legs(&way(&netns, TUNNEL).unwrap()), other);
    netns.run("ip rule add from 192.168.0.2 ipproto udp dport 8472 lookup 100");
    let found = way(&netns, TUNNEL).unwrap();
    assert_eq!(legs(&found), [(10, Towards::Gateway(GATEWAY))]);
    assert!(found.by_default && !found.local);
    assert_eq!(found.in_main, None, "beside table 100 it counts nothing");
    let main = way(&netns, Sender::default()).unwrap();
    assert_eq!(main.in_main, Some(0));
    netns.run("ip route add 203.0.113.0/26 via 192.168.1.1");
    let main = way(&netns, Sender::default()).unwrap();
    assert_eq!(main.in_main, Some(26));
    netns.run("ip route del 203.0.113.0/26");
    let sender = Sender {
        udp_port: None,
        ..TUNNEL
    };
    assert_eq!(legs(&way(&netns, sender).unwrap()), other);
    assert_eq!(legs(&way(&netns, Sender::default()).unwrap()), other);
}

/// Of the protocol of ipip the kernel answers no question: that there is such a rule is all that can be known.
#[test]
fn rules_by_protocol_are_seen() {
    let netns = netns();
    let seen = || {
        netns.block_on(async || {
            let net = Netlink::open().unwrap();
            net.has_rules_by_protocol().await.unwrap()
        })
    };
    netns.run("ip rule add from 192.168.0.2 lookup 100");
    assert!(!seen());
    netns.run("ip rule add ipproto ipip lookup 100");
    assert!(seen());
}

#[test]
fn every_path_of_a_route_is_told() {
    let netns = netns();
    netns.run("ip route add default nexthop via 192.168.0.1 nexthop via 192.168.1.1");
    let found = way(&netns, TUNNEL).unwrap();
    let other = Ipv4Addr::new(192, 168, 1, 1);
    assert_eq!(
        legs(&found),
        [
            (10, Towards::Gateway(GATEWAY)),
            (11, Towards::Gateway(other))
        ]
    );
    assert!(found.legs.iter().all(|leg| !leg.dead));
    netns.run("ip link set far11 down");
    // The kernel tells the other end of a pair when it comes to it.
    eventually("the other path is dead", SOON, || {
        let found = way(&netns, TUNNEL).unwrap();
        let dead: Vec<bool> = found.legs.iter().map(|leg| leg.dead).collect();
        dead == [false, true]
    });
}

#[test]
fn gateways_of_the_other_family_are_no_neighbours() {
    let netns = netns();
    // Without the zeros ip(8) makes a route of IPv6 of it.
    netns.run("ip route add 0.0.0.0/0 via inet6 fe80::1 dev eth0");
    let gateway: Ipv6Addr = "fe80::1".parse().unwrap();
    let found = way(&netns, TUNNEL).unwrap();
    assert_eq!(legs(&found), [(10, Towards::Gateway6(gateway))]);
    assert_eq!((found.on_link(), found.next_hop(PEER, 10)), (None, None));
}

#[test]
fn next_hop_objects_are_read_through() {
    let netns = netns();
    netns.run("ip nexthop add id 1 via 192.168.0.1 dev eth0");
    netns.run("ip nexthop add id 2 via 192.168.1.1 dev eth1");
    netns.run("ip nexthop add id 3 group 1/2");
    netns.run("ip route add default nhid 3");
    assert_eq!(way(&netns, TUNNEL).unwrap().legs.len(), 2);
    // The route names the object alone.
    netns.run("sysctl -qw net.ipv4.nexthop_compat_mode=0");
    let found = way(&netns, TUNNEL).unwrap();
    assert_eq!((found.legs.len(), found.next_hop(PEER, 10)), (0, None));
}

#[test]
fn no_way_is_an_error_that_says_why() {
    let netns = netns();
    let error = way(&netns, TUNNEL).unwrap_err();
    assert!(error.contains("ENETUNREACH"), "{error}");
    netns.run("ip route add prohibit 203.0.113.0/24");
    let error = way(&netns, TUNNEL).unwrap_err();
    assert!(error.contains("EACCES"), "{error}");
    netns.run("ip route replace local 203.0.113.9 dev lo");
    assert!(way(&netns, TUNNEL).unwrap().local);
}

#[test]
fn who_does_not_answer_is_found() {
    let netns = netns();
    netns.run("ip neigh add 192.168.0.1 dev eth0 nud failed");
    netns.run("ip neigh add 192.168.0.7 dev eth0 lladdr 02:00:00:00:00:07 nud reachable");
    let silent = netns.block_on(async || {
        let net = Netlink::open().unwrap();
        net.silent_neighbours().await.unwrap()
    });
    assert_eq!(silent.into_iter().collect::<Vec<_>>(), [(10, GATEWAY)]);
}

/// What is asked together is told as if it were asked alone, also where some have no way, and all in turn with changes of routes.
#[test]
fn many_ways_at_once_are_those_of_each() {
    let netns = netns();
    netns.run("ip route add 10.0.0.0/16 via 192.168.0.1");
    netns.run("ip route add unreachable 10.0.1.0/24");
    netns.run("ip route add blackhole 10.0.2.0/24");
    netns.block_on(async || {
        let net = Netlink::open().unwrap();
        let to = |n: u16| {
            let [high, low] = n.to_be_bytes();
            Ipv4Addr::new(10, 0, high, low)
        };
        let off = [OURS, GATEWAY, PEER];
        let destinations: Vec<Ipv4Addr> = (0..1_000).map(to).chain(off).collect();
        let words = |way: Result<RouteTo, NetError>| way.map_err(|error| error.to_string());
        for _ in 0..2 {
            let ways = net.ways(destinations.iter().copied(), TUNNEL).await;
            assert_eq!(ways.len(), destinations.len());
            let mut refused = 0;
            for (destination, (to, way)) in destinations.iter().zip(ways) {
                assert_eq!(to, *destination);
                let (way, alone) = (words(way), words(net.way(to, TUNNEL).await));
                assert_eq!(way, alone, "{to}");
                refused += usize::from(way.is_err());
            }
            assert_eq!(refused, 2 * 256 + 1);
            let nowhere = [RouteChange::Remove("10.9.0.0/24".parse().unwrap())];
            assert!(net.change_routes(&nowhere).await.unwrap().is_empty());
        }
        assert!(net.ways([], TUNNEL).await.is_empty());
    });
}
