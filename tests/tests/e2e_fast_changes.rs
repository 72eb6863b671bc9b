//! What a running fast flow through the tunnel rests on changes: it follows, or it stops, at once.
//!
//! The agent says that it has done its part by raising the epoch; from then on nothing may go the old way. That is looked at
//! on the wire, not by the clock: without the epoch a flow would follow all the same, some seconds later.

#![cfg(test)]

use std::io::ErrorKind;
use std::net::Ipv4Addr;

use flannel_common::maps::PEERS;
use flannel_tests::bpftool::dump;
use flannel_tests::fast_path::{
    agents, epoch, hooked, pair_of, received, sent, talk_tcp, talk_udp, to,
};
use flannel_tests::lab::Options;
use flannel_tests::pair::{Kind, Pair};
use flannel_tests::prelude::*;
use flannel_tests::{sockopt, talk, udp};
use rstest::rstest;

/// What goes through the tunnel to `node`, as seen on `device` of `from`.
fn tunnel_to(node: Ipv4Addr, from: &Node) -> Capture {
    let filter = format!("udp port 8472 and dst host {node}");
    Capture::start(from, Node::UPLINK, &filter)
}

/// Makes a change that concerns a peer, and waits until the agent has acted on it: the peer first, the proofs last.
#[track_caller]
fn acted_on(agent: &Agent, change: impl FnOnce()) {
    let peers = || dump(agent, PEERS);
    let before = (peers(), epoch(agent));
    change();
    eventually("the peer is another", SOON, || peers() != before.0);
    eventually("all proofs are ended", SOON, || epoch(agent) > before.1);
}

/// The same; the control has nothing to wait for.
#[track_caller]
fn acted_on_if_ours(daemon: &AnyDaemon, change: impl FnOnce()) {
    match daemon.agent() {
        Some(agent) => acted_on(agent, change),
        None => change(),
    }
}

/// Goes on, and is fast in both directions as `agent` sees it.
#[track_caller]
fn goes_on_fast(agent: &Agent, talk: &talk::Udp) {
    eventually("the flow goes on", SOON, || talk.round());
    let before = (sent(agent), received(agent));
    talk.rounds(50);
    let after = (sent(agent), received(agent));
    assert!(
        after.0 > before.0 + 20 && after.1 > before.1 + 20,
        "{before:?} to {after:?}"
    );
}

/// Goes on, and with ours is fast.
#[track_caller]
fn goes_on(daemon: &AnyDaemon, talk: &talk::Udp) {
    match daemon.agent() {
        Some(agent) => goes_on_fast(agent, talk),
        None => talk.rounds(50),
    }
}

/// A node of ours, and one of real flannel, whose lease nobody renews behind our back.
fn with_a_kernel_peer() -> Pair<Agent, KernelVxlan> {
    let pair = Pair::of_agent_and_kernel();
    hooked(&pair.one);
    pair
}

#[test]
fn a_peer_with_another_address_is_followed() {
    let pair = agents(Options::default(), &[]);
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    goes_on_fast(&pair.one, &talk);
    let (old, new) = (pair.two.node().address(), Ipv4Addr::new(172, 30, 0, 77));
    acted_on(&pair.one, || {
        pair.two.node().ip_batch(&[
            format!("addr add {new}/24 dev eth0"),
            format!("addr del {old}/24 dev eth0"),
            format!("addr add {new}/24 dev eth0"),
            "route replace default via 172.30.0.254".to_owned(),
        ]);
        let key = pair.net.lease_key(pair.two.subnet());
        eventually("the lease says so", SOON, || {
            let lease = pair.lab.etcd().get(&key).unwrap_or_default();
            lease.contains(&new.to_string())
        });
    });
    let (to_old, to_new) = (
        tunnel_to(old, pair.one.node()),
        tunnel_to(new, pair.one.node()),
    );
    goes_on_fast(&pair.one, &talk);
    goes_on_fast(&pair.two, &talk);
    assert_eq!(to_old.finish().len(), 0, "sent into the void");
    to_new.packets(50);
}

/// The kernel's device takes no frame for another MAC than its own.
#[test]
fn a_peer_with_another_mac_is_followed() {
    let pair = with_a_kernel_peer();
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    goes_on_fast(&pair.one, &talk);
    acted_on(&pair.one, || pair.two.change_mac("c6:01:02:03:04:05"));
    // Not one is lost any more: no proof from before is left.
    talk.rounds(50);
    goes_on_fast(&pair.one, &talk);
}

#[test]
fn without_its_peers_lease_a_flow_stops_until_it_is_back() {
    let pair = with_a_kernel_peer();
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    goes_on_fast(&pair.one, &talk);
    let key = pair.net.lease_key(pair.two.subnet());
    let lease = pair.lab.etcd().get(&key).unwrap();

    acted_on(&pair.one, || pair.lab.etcd().delete(&key));
    let tunnel = tunnel_to(pair.two.node().address(), pair.one.node());
    let before = (sent(&pair.one), received(&pair.one));
    for _ in 0..4 {
        assert!(!talk.round(), "to a node that left");
    }
    tunnel.saw_nothing();
    assert_eq!((sent(&pair.one), received(&pair.one)), before);

    pair.lab.etcd().put(&key, &lease);
    goes_on_fast(&pair.one, &talk);
}

/// Small packets stay fast; one that has become too long is told so by the stack, where the fast path would lose it.
#[test]
fn a_smaller_mtu_reaches_a_fast_flow() {
    let pair = agents(Options::default(), &[]);
    let mut small = talk_tcp(&pair.pod1, &pair.pod2);
    let server = udp::Server::on(&pair.pod2);
    let client = udp::Server::on(&pair.pod1).into_socket();
    client.connect(to(&pair.pod2, server.port())).unwrap();
    sockopt::whole_only(&client);
    let server = server.into_socket();
    // 1,408 bytes with their headers: 1,450 is the MTU now, 1,350 later.
    let long = [7; 1380];
    let mut got = [0; 2000];
    for _ in 0..50 {
        client.send(&long).unwrap();
        assert_eq!(uninterrupted(|| server.recv(&mut got)).unwrap(), long.len());
    }
    assert!(sent(&pair.one) > 20);

    let before = epoch(&pair.one);
    let uplink = Node::UPLINK;
    pair.one.exec(&format!("ip link set {uplink} mtu 1400"));
    eventually("all proofs are ended", SOON, || epoch(&pair.one) > before);
    eventually("the sender knows that it is too long", SOON, || {
        // EMSGSIZE has no kind of its own.
        client
            .send(&long)
            .is_err_and(|e| e.raw_os_error() == Some(libc::EMSGSIZE))
    });
    server.set_nonblocking(true).unwrap();
    let nothing = uninterrupted(|| server.recv(&mut got)).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock, "none got through");
    let before = sent(&pair.one);
    small.rounds(50);
    assert!(sent(&pair.one) > before + 20);
    small.close();
}

/// The way to the peer leads through a router from one moment to the next, and back.
#[rstest]
fn another_next_hop_is_taken(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let net = Network::vxlan("/coreos.com/network", "10.244.0.0/16");
    let pair = pair_of(kind, net, Options::default(), &[]);
    let router = pair.lab.router();
    // It would say that it is not needed, and be believed.
    for device in ["all", "switch"] {
        router.sysctl(&format!("net.ipv4.conf.{device}.send_redirects"), 0);
    }
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    goes_on(&pair.one, &talk);
    let mac = |shown: String| {
        let at = shown.find("link/ether ").unwrap() + "link/ether ".len();
        shown[at..at + 17].to_owned()
    };
    let to_mac = |mac: &str| {
        let filter = format!("udp port 8472 and ether dst {mac}");
        Capture::start(pair.one.node(), Node::UPLINK, &filter)
    };
    let gateway = mac(router.exec("ip link show dev switch"));
    let neighbour = mac(pair.two.exec("ip link show dev eth0"));
    let peer = pair.two.node().address();

    acted_on_if_ours(&pair.one, || {
        pair.one
            .exec(&format!("ip route add {peer}/32 via 172.30.0.254"));
    });
    let (by_router, past_it) = (to_mac(&gateway), to_mac(&neighbour));
    goes_on(&pair.one, &talk);
    by_router.packets(50);
    assert_eq!(past_it.finish().len(), 0, "still the old way");

    acted_on_if_ours(&pair.one, || {
        pair.one.exec(&format!("ip route del {peer}/32"));
    });
    let (by_router, past_it) = (to_mac(&gateway), to_mac(&neighbour));
    goes_on(&pair.one, &talk);
    assert_eq!(by_router.finish().len(), 0, "still by the router");
    past_it.packets(50);
}
