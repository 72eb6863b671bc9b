//! CNI's bandwidth plugin: a queue at the pod's port for what it receives, and an ifb behind a filter for what it sends.

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4};

use flannel_tests::bandwidth::{self, passed};
use flannel_tests::bridge_port::unfit_if_ours;
use flannel_tests::fast_path::fast_udp;
use flannel_tests::netns::Netns;
use flannel_tests::prelude::*;
use flannel_tests::setups::Setup::{self, *};
use flannel_tests::{talk, tcp, udp};
use rstest::rstest;

const ROUNDS: usize = 300;

fn address(pod: &Netns) -> Ipv4Addr {
    let shown = pod.exec("ip -o -4 addr show dev eth0");
    let mut words = shown.split_whitespace().skip_while(|word| *word != "inet");
    let address = words.nth(1).and_then(|word| word.split('/').next());
    address.unwrap().parse().unwrap()
}

#[rstest]
fn every_packet_of_a_pod_is_shaped_and_no_other_s(
    #[values(Vxlan, VxlanAlways, DirectRouting, HostGw, Flanneld, FlanneldHostGw)] setup: Setup,
) {
    let pair = setup.pair();
    let pod = pair.one.node().pod_namespace("shaped");
    let attached = bandwidth::add(&pair.one, &bandwidth::bridge(&pair.one), &pod);
    let port = bandwidth::port(&attached);
    bandwidth::add(&pair.one, &bandwidth::bandwidth(&attached), &pod);
    let links = pair.one.exec("ip -br link show type ifb");
    let ifb = links.split([' ', '@']).next().unwrap();
    unfit_if_ours(&pair.one, &port);
    eventually("the other node is reached", SOON, || {
        pod.ping(pair.pod2.address()).count(1).lossless()
    });

    let socket = udp::Server::on(&pair.pod2);
    let to = SocketAddrV4::new(pair.pod2.address(), socket.port());
    let udp = talk::Udp::open(socket, &pod, to);
    let listener = tcp::Server::on(&pod);
    let to = SocketAddrV4::new(address(&pod), listener.port());
    let mut tcp = talk::Tcp::open(&listener, &pair.pod2, to);
    let before = [port.as_str(), ifb].map(|device| passed(&pair.one, device));
    udp.rounds(ROUNDS);
    tcp.rounds(ROUNDS);
    let after = [port.as_str(), ifb].map(|device| passed(&pair.one, device));
    for (before, after) in before.into_iter().zip(after) {
        let seen = after - before;
        assert!(seen >= 2 * ROUNDS as u64, "{seen} of {}", 2 * ROUNDS);
    }
    fast_udp(&pair);
}
