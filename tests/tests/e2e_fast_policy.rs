//! What a policy, or a Service, that comes while packets flow says of a running flow whose connection conntrack is told to forget: as
//! engines do it that mean running connections, and kube-proxy for UDP.

#![cfg(test)]

use std::net::SocketAddrV4;
use std::time::Duration;

use flannel_tests::fast_path::{
    RULE_REACHES, fast, fast_udp, gets_fast, ours, pair_of, sent, talk_tcp, was_fast,
};
use flannel_tests::lab::Options;
use flannel_tests::pair::{Kind, Pair};
use flannel_tests::prelude::*;
use flannel_tests::setups::Setup::{self, *};
use flannel_tests::with_daemon::AnyDaemon;
use flannel_tests::{talk, udp};
use rstest::rstest;

/// From one renewal to the next, and more.
const RENEWALS: Duration = Duration::from_secs(8);

/// Connections that are there go on; a new one of the client's is not for the server. The server may open what it likes.
fn forbids(node: &Node, pair: &Pair<AnyDaemon>, proto: &str, port: u16) {
    let (client, server) = (pair.pod1.address(), pair.pod2.address());
    node.exec(&format!(
        "iptables-nft -I FORWARD 2 -s {client} -d {server} -p {proto} -m conntrack --ctstate NEW -j DROP"
    ));
    node.exec(&format!(
        "conntrack -D -p {proto} --orig-src {client} --orig-port-src {port}"
    ));
}

/// Waits longer than a flow needs that comes to life again.
#[track_caller]
fn stays_stopped(talk: &talk::Udp) {
    let until = std::time::Instant::now() + RENEWALS;
    while std::time::Instant::now() < until {
        assert!(!talk.round(), "the flow came to life again");
    }
}

#[rstest]
fn a_flow_that_conntrack_forgot_is_new_to_the_policy(
    #[values(
        Vxlan,
        VxlanAtBridge,
        DirectRouting,
        HostGw,
        Udp,
        Flanneld,
        FlanneldHostGw,
        FlanneldUdp
    )]
    setup: Setup,
    #[values(true, false)] at_the_client_s: bool,
) {
    let pair = setup.pair();
    let node = match at_the_client_s {
        true => pair.one.node(),
        false => pair.two.node(),
    };
    node.exec("iptables-nft -I FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    let talk = fast_udp(&pair);
    let before = fast(&pair.one);
    talk.rounds(50);
    was_fast(&pair.one, before, 20);
    let [port, _] = talk.ports();
    forbids(node, &pair, "udp", port);
    eventually("the policy stops the flow", RULE_REACHES, || {
        (0..5).all(|_| !talk.round())
    });
    stays_stopped(&talk);
}

/// Of TCP the same: nothing is acknowledged any more.
#[rstest]
fn a_connection_that_conntrack_forgot_is_new_to_the_policy(
    #[values(Vxlan, HostGw, Flanneld)] setup: Setup,
    #[values(true, false)] at_the_client_s: bool,
) {
    let pair = setup.pair();
    let node = match at_the_client_s {
        true => pair.one.node(),
        false => pair.two.node(),
    };
    node.exec("iptables-nft -I FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    let mut talk = talk_tcp(&pair.pod1, &pair.pod2);
    gets_fast(&ours(&pair), |rounds| talk.rounds(rounds));
    let port = talk.port();
    forbids(node, &pair, "tcp", port);
    eventually("the policy stops the connection", RULE_REACHES, || {
        !talk.round_within(Duration::from_secs(4))
    });
    assert!(!talk.round_within(RENEWALS), "it came to life again");
}

/// A Service's address that answered from the outside, so far.
#[rstest]
fn a_service_that_comes_is_for_running_flows_too(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[values(true, false)] answers: bool,
) {
    let net = Network::vxlan("/coreos.com/network", "10.244.0.0/16");
    let pair = pair_of(kind, net, Options::default(), &["--ip-masq"]);
    let outside = pair.lab.outside();
    let server = udp::Server::on(&outside);
    let address = SocketAddrV4::new(outside.address(), server.port());
    if !answers {
        outside.run(&format!(
            "iptables-nft -A INPUT -p udp --dport {} -j DROP",
            server.port()
        ));
    }
    let talk = talk::Udp::open(server, &pair.pod1, address);
    if answers {
        eventually("the flow is fast", SOON, || {
            let before = pair.one.agent().map(sent);
            talk.rounds(50);
            pair.one.agent().map(sent) >= before.map(|sent| sent + 40)
        });
    } else {
        for _ in 0..20 {
            talk.round();
        }
    }
    let endpoint = SocketAddrV4::new(pair.pod2.address(), address.port());
    let (node, pod) = (pair.one.node(), pair.pod1.address());
    let arrives = Capture::inside(
        pair.two.node(),
        &pair.pod2,
        "eth0",
        &format!("udp and dst port {}", address.port()),
    );
    let to = address.ip();
    node.exec(&format!(
        "iptables-nft -t nat -I PREROUTING -d {to} -p udp --dport {} -j DNAT --to-destination {endpoint}",
        address.port()
    ));
    node.exec(&format!(
        "conntrack -D -p udp --orig-src {pod} --orig-dst {to}"
    ));
    eventually("packets go to the endpoint", RULE_REACHES, || {
        let at_outside = Capture::inside(
            node,
            &outside,
            "eth0",
            &format!("udp and dst port {}", address.port()),
        );
        for _ in 0..3 {
            talk.round();
        }
        at_outside.finish().is_empty()
    });
    for _ in 0..5 {
        talk.round();
    }
    arrives.packets(5);
}
