//! A route to a peer with an MTU of its own: tunnel packets keep to it, and the log says so.

#![cfg(test)]

use std::net::SocketAddrV4;

use flannel_tests::fast_path::{fast, gets_fast, ours, pair_of, was_fast};
use flannel_tests::lab::Options;
use flannel_tests::pair::{Kind, Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::ways::{ipip, vxlan};
use flannel_tests::{talk, tcp, udp};
use rstest::rstest;

/// Of the routes between the nodes, on wires of 1500 bytes.
const MTU: u32 = 1300;
/// That they keep to it, IPv4 header and all.
const FITS: usize = MTU as usize;

fn routes(pair: &Pair<AnyDaemon>, verb: &str, mtu: &str) {
    for (from, to) in [(&pair.one, &pair.two), (&pair.two, &pair.one)] {
        let peer = to.node().address();
        from.node()
            .exec(&format!("ip route {verb} {peer}/32 dev eth0 {mtu}"));
    }
}

/// Length of the longest packet that a node sends while `act` runs, bytes from the IPv4 header on. (What arrives, GRO may have
/// merged before it is seen.)
fn longest(node: &Node, act: impl FnOnce()) -> usize {
    let filter = format!("src host {}", node.address());
    let filter = format!("{filter} and (udp or ip proto 4 or ip[6:2] & 0x3fff != 0)");
    let capture = Capture::start(node, "eth0", &filter);
    act();
    let packets = capture.finish();
    let lengths = packets.iter().map(|packet| packet.len() - 14);
    lengths.max().unwrap_or(0)
}

/// Long packets of each kind, both ways. The one by which a pod learns that less passes is lost: it has DF.
fn talk_long(pair: &Pair<AnyDaemon>) {
    for way in pair.both_ways() {
        let (client, to) = (way.client, way.server.address());
        eventually("long pings arrive", SOON, || {
            let pings = client.try_exec(&format!("ping -n -i 0.01 -W 1 -c 3 -s 1422 {to}"));
            pings.status.success() && String::from_utf8_lossy(&pings.stdout).contains(" 0% packet")
        });
    }
    for way in pair.both_ways() {
        let (client, server) = (way.client, way.server);
        let to = server.address();
        udp::exchange(client, server, to, 1400);
        udp::exchange(client, server, to, 8192);
        let listener = tcp::Server::on(server);
        listener.exchange(client, SocketAddrV4::new(to, listener.port()), 1 << 20);
    }
}

#[rstest]
#[case::verified(&[])]
#[case::at_the_bridge(&["--pod-hook=bridge"])]
#[case::always(&["--fast-path=always"])]
#[case::off(&["--fast-path=off"])]
#[case::anchor(&["--gro=anchor"])]
fn tunnel_packets_keep_to_it(#[case] flags: &[&str], #[values(Mix::Ours, Mix::Flanneld)] mix: Mix) {
    let (kind, _) = mix.kinds();
    let options = Options {
        wire: Wire::Segmented,
        ..Options::default()
    };
    let mut pair = pair_of(kind, vxlan(), options, flags);
    // A flow that is fast by then.
    let server = tcp::Server::on(&pair.pod2);
    let to = SocketAddrV4::new(pair.pod2.address(), server.port());
    let mut lasting = talk::Tcp::open(&server, &pair.pod1, to);
    lasting.rounds(50);
    if !flags.contains(&"--fast-path=off") {
        gets_fast(&ours(&pair), |rounds| lasting.rounds(rounds));
    }
    assert!(longest(pair.one.node(), || talk_long(&pair)) > FITS);
    routes(&pair, "add", &format!("mtu {MTU}"));
    if mix == Mix::Ours {
        for daemon in [&pair.one, &pair.two] {
            eventually("the agent follows", SOON, || {
                daemon.node().exec("ip route").contains("mtu 1248")
            });
        }
    }
    assert!(longest(pair.one.node(), || talk_long(&pair)) <= FITS);
    lasting.rounds(50);
    // Nobody has to look after it.
    pair.one.kill();
    pair.two.kill();
    assert!(longest(pair.one.node(), || talk_long(&pair)) <= FITS);
    pair.one.restart();
    pair.two.restart();
    assert!(longest(pair.one.node(), || talk_long(&pair)) <= FITS);
    if mix == Mix::Ours && flags.is_empty() {
        let before = fast(&pair.one);
        lasting.rounds(100);
        was_fast(&pair.one, before, 50);
    }
    routes(&pair, "del", "");
    if mix == Mix::Ours {
        for daemon in [&pair.one, &pair.two] {
            eventually("the agent follows back", SOON, || {
                !daemon.node().exec("ip route").contains("mtu 1248")
            });
        }
    }
    talk_long(&pair);
}

/// Those of ipip have the pods' "don't fragment": what is longer would be lost on the way.
#[rstest]
#[case::verified(&[])]
#[case::always(&["--fast-path=always"])]
#[case::off(&["--fast-path=off"])]
fn so_do_those_that_must_not_be_fragmented(#[case] flags: &[&str]) {
    let options = Options {
        wire: Wire::Segmented,
        ..Options::default()
    };
    let mut pair = pair_of(Kind::Ours, ipip(), options, flags);
    assert!(longest(pair.one.node(), || talk_long(&pair)) > FITS);
    routes(&pair, "add", &format!("mtu {MTU}"));
    for daemon in [&pair.one, &pair.two] {
        eventually("the agent follows", SOON, || {
            daemon.node().exec("ip route").contains("mtu 1280")
        });
    }
    assert!(longest(pair.one.node(), || talk_long(&pair)) <= FITS);
    pair.one.kill();
    pair.two.kill();
    assert!(longest(pair.one.node(), || talk_long(&pair)) <= FITS);
}

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
