//! What a policy, or a Service, that comes while packets flow says of a running flow whose connection conntrack is told to forget: as
//! engines do it that mean running connections, and kube-proxy for UDP.

#![cfg(test)]

use std::time::Duration;

use flannel_tests::fast_path::{RULE_REACHES, fast, fast_udp, was_fast};
use flannel_tests::pair::{Kind, Pair};
use flannel_tests::prelude::*;
use flannel_tests::setups::Setup::{self, *};
use flannel_tests::stage::Stage;
use flannel_tests::wait::uninterrupted;
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

/// The same with whom it talks to outside: that one may send what it likes, and does so only when it is asked.
#[rstest]
fn a_flow_to_the_outside_that_conntrack_forgot_is_new_to_the_policy(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    let stage = Stage::on(kind);
    let node = stage.node.node();
    node.exec("iptables-nft -I FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    let talk = stage.lasting_udp();
    let until = std::time::Instant::now() + RENEWALS;
    while std::time::Instant::now() < until {
        assert!(talk.round(), "each goes on");
    }
    let (pod, [port, _]) = (stage.pod.address(), talk.ports());
    node.exec(&format!(
        "iptables-nft -I FORWARD 2 -s {pod} -p udp -m conntrack --ctstate NEW -j DROP"
    ));
    node.exec(&format!(
        "conntrack -D -p udp --orig-src {pod} --orig-port-src {port}"
    ));
    eventually("the policy stops the flow", RULE_REACHES, || {
        (0..5).all(|_| !talk.round())
    });
    stays_stopped(&talk);
}

/// kube-proxy does so where a Service gets an endpoint that was sent to already.
#[rstest]
fn a_service_that_comes_is_for_running_flows_too(
    #[values(Vxlan, HostGw, Flanneld, FlanneldHostGw)] setup: Setup,
) {
    let pair = setup.pair();
    let (node, pod) = (pair.one.node(), pair.pod2.address());
    node.exec("iptables-nft -I FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    let talk = fast_udp(&pair);
    talk.rounds(50);
    let endpoint = udp::Server::on(&pair.pod2);
    let [client, port] = talk.ports();
    let to = format!("{pod}:{}", endpoint.port());
    let endpoint = endpoint.into_socket();
    endpoint
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    node.exec(&format!(
        "iptables-nft -t nat -I PREROUTING -d {pod} -p udp --dport {port} -j DNAT --to-destination {to}"
    ));
    node.exec(&format!(
        "conntrack -D -p udp --orig-port-src {client} --orig-dst {pod}"
    ));
    let arrives = || {
        let elsewhere = talk.round();
        let mut byte = [0];
        !elsewhere && uninterrupted(|| endpoint.recv(&mut byte)).is_ok()
    };
    eventually("packets go to the endpoint", RULE_REACHES, arrives);
    for _ in 0..10 {
        assert!(arrives(), "some go where they went before");
    }
}
