//! Past the stack to the outside and back: what becomes fast, what never does. Nothing un-NATed leaves (the stage's
//! sniffer watches).

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4};

use flannel_common::maps::FLOWS;
use flannel_common::program::Program::{OutsideRx, OutsideTx, PodRx, PodTx, UplinkTx};
use flannel_common::reason::Reason;
use flannel_tests::bpftool::{count, dump};
use flannel_tests::fast_path::{
    RULE_REACHES, conntrack_is_content, hooked, looked_again, pinned, proven_tcp, sent,
};
use flannel_tests::iptables::Iptables;
use flannel_tests::kube_proxy::Service;
use flannel_tests::lab::Options;
use flannel_tests::mirror::{Client, Mirror};
use flannel_tests::prelude::*;
use flannel_tests::stage::{CLUSTER, Stage};
use flannel_tests::{flannel_rules, talk, tcp, udp};
use rstest::rstest;

const PORT: u16 = 7000;

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", CLUSTER)
}

fn host_gw() -> Network {
    Network::host_gw("/coreos.com/network", CLUSTER)
}

fn stage(flags: &[&str]) -> Stage {
    stage_of(vxlan(), Options::default(), flags)
}

fn stage_of(net: Network, options: Options, flags: &[&str]) -> Stage {
    let stage = Stage::of(net, options, flags);
    hooked(&stage.node);
    stage
}

fn fast_in(stage: &Stage) -> u64 {
    count(&stage.node, OutsideRx, Reason::FastRx)
}

#[rstest]
#[case::vxlan(vxlan(), &[])]
#[case::at_the_bridge(vxlan(), &["--pod-hook=bridge"])]
#[case::between_pods_without_proof(vxlan(), &["--fast-path=always"])]
#[case::direct_routing(vxlan().direct_routing(), &[])]
#[case::host_gw(host_gw(), &[])]
#[case::host_gw_at_the_bridge(host_gw(), &["--pod-hook=bridge"])]
fn flows_become_fast_both_ways(#[case] net: Network, #[case] flags: &[&str]) {
    let stage = stage_of(net, Options::default(), flags);
    let mut tcp = stage.lasting_tcp();
    tcp.rounds(200);
    stage.lasting_udp().rounds(200);
    let (out, inwards) = (sent(&stage.node), fast_in(&stage));
    assert!(
        out > 300 && inwards > 300,
        "of 400 each way {out} and {inwards} were fast"
    );
    assert!(count(&stage.node, UplinkTx, Reason::Snat) >= out);
    tcp.close();
}

/// Thousands of short exchanges must not push lasting flows out of the table.
#[test]
fn what_is_over_soon_takes_no_room() {
    let stage = stage(&[]);
    let server = tcp::Server::on(&stage.outside);
    let to = stage.outside.at(server.port());
    let entries = || dump(&stage.node, FLOWS).len();
    // On a busy machine one may last.
    eventually("an exchange leaves nothing", SOON, || {
        let before = entries();
        let mut talk = talk::Tcp::open(&server, &stage.pod, to);
        talk.rounds(1);
        talk.close();
        entries() == before
    });
    let before = entries();
    stage.lasting_tcp().rounds(3);
    assert_eq!(entries(), before + 1, "a lasting one does");
}

#[test]
fn the_server_sees_the_node_before_and_after() {
    let stage = stage(&[]);
    let mirror = Mirror::on(&stage.outside, PORT);
    let to = stage.outside.at(mirror.port());
    let clients = [
        Client::tcp(&stage.pod, to).unwrap(),
        Client::udp(&stage.pod, 0, to),
    ];
    for mut client in clients {
        let seen = client.ask(0);
        assert_eq!(*seen.ip(), stage.address());
        client.outlast();
        let before = sent(&stage.node);
        for number in 1..100 {
            assert_eq!(client.ask(number), seen);
        }
        assert!(sent(&stage.node) > before + 80);
    }
}

#[rstest]
#[case::off(&["--ip-masq", "--fast-path=off"])]
#[case::without_source_nat(&[])]
fn switched_off_nothing_is_fast(#[case] flags: &[&str]) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let outside = lab.outside();
    let node = Agent::start_with(lab.node("one"), &net, flags);
    let pod = Pod::on(&node, "pod");
    looked_again(&node);
    if flags.contains(&"--fast-path=off") {
        for program in [PodTx, PodRx] {
            assert_eq!(pinned(&node, program), <[String; 0]>::default());
        }
    } else {
        hooked(&node);
    }
    // Whoever is not translated needs a way back.
    outside.routes_to(&node.subnet().to_string(), &node);
    eventually("the pod reaches the server", SOON, || {
        pod.ping(outside.address()).count(1).lossless()
    });
    let server = udp::Server::on(&outside);
    let to = outside.at(server.port());
    talk::Udp::open(server, &pod, to).outlast();
    let fast = [(PodTx, Reason::FastTx), (OutsideRx, Reason::FastRx)];
    assert_eq!(
        fast.map(|(program, reason)| count(&node, program, reason)),
        [0, 0]
    );
    assert_eq!(dump(&node, FLOWS), <[serde_json::Value; 0]>::default());
}

#[rstest]
#[case::whole(Wire::Whole)]
#[case::segmented(Wire::Segmented)]
fn bulk_arrives_whole_both_ways(#[case] wire: Wire) {
    let options = Options {
        wire,
        ..Options::default()
    };
    let stage = stage_of(vxlan(), options, &[]);
    let server = tcp::Server::on(&stage.outside);
    // On a fast machine it may be over before it lasts long enough for a proof.
    eventually("bulk past the stack both ways", SOON, || {
        let seen = server.exchange(&stage.pod, stage.outside.at(server.port()), 64 << 20);
        assert_eq!(seen.client.ip(), stage.address());
        sent(&stage.node) > 0 && fast_in(&stage) > 0
    });
}

#[test]
fn a_drop_rule_stops_a_fast_flow_and_its_removal_lets_it_go_on() {
    let stage = stage(&[]);
    let talk = stage.lasting_udp();
    talk.rounds(50);
    assert!(sent(&stage.node) > 0);
    let node = stage.node.node();
    let ways = [
        format!("FORWARD -s {} -j DROP", stage.pod.address()),
        format!("FORWARD -d {} -j DROP", stage.pod.address()),
    ];
    for rule in ways {
        node.exec(&format!("iptables-nft -I {rule}"));
        eventually("the rule stops the flow", RULE_REACHES, || {
            (0..3).all(|_| !talk.round())
        });
        node.exec(&format!("iptables-nft -D {rule}"));
        eventually("the flow goes on", SOON, || talk.round());
    }
    let before = sent(&stage.node);
    eventually("it is fast again", SOON, || {
        talk.round() && sent(&stage.node) > before
    });
}

/// Another tuple comes out of the stack than went in, or a mark says that one will.
#[rstest]
fn what_the_kernel_translates_is_never_fast(
    #[values("--pod-hook=port", "--pod-hook=bridge")] hook: &str,
    #[values(true, false)] br_netfilter: bool,
) {
    let stage = stage(&[hook]);
    let node = stage.node.node();
    node.br_netfilter(br_netfilter);
    flannel_rules::forward(&stage.node, Iptables::Nft);
    let server = tcp::Server::on(&stage.outside);
    let to = stage.outside.at(server.port());

    // A service whose endpoint is outside.
    let service = Service::new(Ipv4Addr::new(10, 96, 0, 10), 80, vec![to]);
    service.install(node, Iptables::Nft, CLUSTER);
    let mut tcp = talk::Tcp::open(&server, &stage.pod, service.address());
    tcp.outlast();
    let datagrams = udp::Server::on_port(&stage.outside, server.port());
    talk::Udp::open(datagrams, &stage.pod, service.address()).outlast();
    tcp.close();

    // Somebody else's masquerading.
    let pod = stage.pod.address();
    node.exec(&format!(
        "iptables-nft -t nat -I POSTROUTING -s {pod} -d {} -j MASQUERADE",
        to.ip()
    ));
    let mut tcp = talk::Tcp::open(&server, &stage.pod, to);
    tcp.outlast();
    tcp.close();
    stage.lasting_udp().rounds(50);
    assert_eq!((sent(&stage.node), fast_in(&stage)), (0, 0));
}

/// kube-proxy's bit says that the kernel masquerades; it is no matter which rule does.
#[test]
fn what_kube_proxy_marks_is_never_fast() {
    let stage = stage(&[]);
    let node = stage.node.node();
    node.exec("iptables-nft -t mangle -A PREROUTING -i cni0 -j MARK --or-mark 0x4000");
    node.exec("iptables-nft -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE");
    let mut tcp = stage.lasting_tcp();
    tcp.rounds(50);
    stage.lasting_udp().rounds(50);
    assert_eq!((sent(&stage.node), fast_in(&stage)), (0, 0));
    tcp.close();
}

/// A client outside that speaks to a pod is answered under the pod's address, by the stack.
#[test]
fn what_came_in_is_never_fast() {
    let stage = stage(&[]);
    stage
        .outside
        .routes_to(&stage.node.subnet().to_string(), &stage.node);
    stage.sniffer.allow_all(stage.pod.address());
    let server = tcp::Server::on(&stage.pod);
    let to = SocketAddrV4::new(stage.pod.address(), server.port());
    let mut tcp = talk::Tcp::open(&server, &stage.outside, to);
    tcp.outlast();
    let server = udp::Server::on(&stage.pod);
    let to = SocketAddrV4::new(stage.pod.address(), server.port());
    talk::Udp::open(server, &stage.outside, to).outlast();
    assert_eq!((sent(&stage.node), fast_in(&stage)), (0, 0));
    assert_eq!(count(&stage.node, OutsideTx, Reason::Verified), 0);
    tcp.close();
}

#[test]
fn conntrack_sees_a_fast_flow_established_and_assured() {
    let stage = stage(&[]);
    let node = stage.node.node();
    node.exec("iptables-nft -I FORWARD -m conntrack --ctstate INVALID -j DROP");
    let mut talk = stage.lasting_tcp();
    talk.rounds(500);
    assert!(sent(&stage.node) > 400);
    conntrack_is_content(node, talk.port());
    talk.close();
}

#[rstest]
fn a_connection_that_ends_leaves_no_live_entry(#[values(true, false)] orderly: bool) {
    let stage = stage(&[]);
    let mut talk = stage.lasting_tcp();
    talk.rounds(50);
    assert!(sent(&stage.node) > 30);
    match orderly {
        true => talk.close(),
        false => talk.reset(),
    }
    eventually("no live entry", SOON, || proven_tcp(&stage.node).is_empty());
}

#[test]
fn flows_go_on_when_the_agent_is_killed_and_programs_are_swapped() {
    let mut stage = stage(&[]);
    let flow = udp::Flow::start(&stage.pod, &stage.outside, stage.outside.address());
    let mut talk = stage.lasting_tcp();
    talk.rounds(50);
    stage.node.kill();
    let before = sent(&stage.node);
    talk.rounds(200);
    assert!(sent(&stage.node) > before, "without an agent as with one");
    for flags in [&["--ip-masq"][..], &["--ip-masq", "--source-check=off"]] {
        stage.node.restart_with(flags);
        talk.rounds(200);
        stage.node.kill();
    }
    flow.finish().assert_complete();
    talk.close();
}
