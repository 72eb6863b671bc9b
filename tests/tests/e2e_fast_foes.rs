//! A pod that makes frames in others' names gets nothing of theirs, as with flanneld.

#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddrV4};

use flannel_common::Mac;
use flannel_common::program::Program::{OutsideRx, PodTx};
use flannel_common::reason::Reason;
use flannel_tests::bpftool::count;
use flannel_tests::fast_path::{fast, fast_udp, hooked_if_ours, sent, talk_udp, to, was_fast};
use flannel_tests::forger::{Forger, datagram, mac, segment};
use flannel_tests::pair::Kind;
use flannel_tests::prelude::*;
use flannel_tests::setups::Setup::{self, *};
use flannel_tests::stage::{CLUSTER, Stage};
use flannel_tests::with_daemon::AnyDaemon;
use flannel_tests::{talk, tcp};
use rstest::rstest;

const ROUNDS: usize = 300;
const EVERYBODY: Mac = [0xff; 6];
const PREFIX: &str = "/coreos.com/network";

/// Somebody else on the same bridge, on whose port the programs sit.
fn foe_on(daemon: &AnyDaemon, at_ports: bool) -> Pod {
    let foe = Pod::on(daemon, "foe");
    if let (Some(agent), true) = (daemon.agent(), at_ports) {
        let port = foe.port();
        eventually("programs at the foe's port", SOON, || {
            agent
                .log()
                .contains(&format!("attach pod_tx to ingress of {port}"))
        });
    }
    foe
}

/// What comes to a foe that is meant for somebody else: what it has made itself is longer.
fn stolen(daemon: &AnyDaemon, foe: &Pod, from: Ipv4Addr, victim: Ipv4Addr) -> Capture {
    let filter = format!("src host {from} and dst host {victim} and less 80");
    Capture::inside(daemon.node(), foe.netns(), "eth0", &filter)
}

/// Pod 1 talks to pod 2; the foe sends frames from pod 2 to pod 1, by its own port back to itself, and to all.
#[rstest]
fn another_pod_s_answers_are_not_to_be_had(
    #[values(
        Vxlan,
        VxlanAtBridge,
        VxlanAlways,
        DirectRouting,
        HostGw,
        HostGwAtBridge,
        Udp,
        UdpAtBridge,
        UdpAlways,
        Flanneld,
        FlanneldUdp
    )]
    setup: Setup,
    #[values(false, true)] to_all: bool,
) {
    let pair = setup.pair();
    let foe = foe_on(&pair.one, !setup.flags().contains(&"--pod-hook=bridge"));
    let own = mac(&foe);
    let macs = [own, if to_all { EVERYBODY } else { own }];
    let (mut tcp, server) = talk_tcp_at(&pair.pod1, &pair.pod2);
    let udp = talk_udp(&pair.pod1, &pair.pod2);
    let [client, answers] = udp.ports();
    let forged = vec![
        datagram(macs, to(&pair.pod2, answers), to(&pair.pod1, client)),
        segment(macs, to(&pair.pod2, server), to(&pair.pod1, tcp.port())),
    ];
    let stolen = stolen(&pair.one, &foe, pair.pod2.address(), pair.pod1.address());
    let before = fast(&pair.one);
    let forger = Forger::start(&foe, forged);
    udp.rounds(ROUNDS);
    tcp.rounds(ROUNDS);
    drop(forger);
    udp.rounds(ROUNDS);
    assert_eq!(stolen.finish().len(), 0, "of {} answers", 3 * ROUNDS);
    // And they are fast all the same.
    was_fast(&pair.one, before, 500);
}

fn talk_tcp_at(client: &Pod, server: &Pod) -> (talk::Tcp, u16) {
    let listener = tcp::Server::on(server);
    let port = listener.port();
    let talk = talk::Tcp::open(&listener, client, to(server, port));
    (talk, port)
}

#[rstest]
#[case::vxlan(Kind::Ours, Network::vxlan(PREFIX, CLUSTER), &[])]
#[case::at_the_bridge(Kind::Ours, Network::vxlan(PREFIX, CLUSTER), &["--pod-hook=bridge"])]
#[case::always(Kind::Ours, Network::vxlan(PREFIX, CLUSTER), &["--fast-path=always"])]
#[case::host_gw(Kind::Ours, Network::host_gw(PREFIX, CLUSTER), &[])]
#[case::udp(Kind::Ours, Network::udp(PREFIX, CLUSTER), &[])]
#[case::flanneld(Kind::Flanneld, Network::vxlan(PREFIX, CLUSTER), &[])]
#[case::flanneld_udp(Kind::Flanneld, Network::udp(PREFIX, CLUSTER), &[])]
fn nor_are_answers_from_outside(
    #[case] kind: Kind,
    #[case] net: Network,
    #[case] flags: &[&str],
    #[values(false, true)] to_all: bool,
) {
    let stage = Stage::on_with(kind, net, flags);
    hooked_if_ours(&stage.node);
    let foe = foe_on(&stage.node, !flags.contains(&"--pod-hook=bridge"));
    let own = mac(&foe);
    let macs = [own, if to_all { EVERYBODY } else { own }];
    let udp = stage.lasting_udp();
    let [client, server] = udp.ports();
    let forged = datagram(
        macs,
        stage.outside.at(server),
        SocketAddrV4::new(stage.pod.address(), client),
    );
    let (server, victim) = (stage.outside.address(), stage.pod.address());
    let stolen = stolen(&stage.node, &foe, server, victim);
    let past_the_stack = || {
        let agent = stage.node.agent()?;
        Some((sent(agent), count(agent, OutsideRx, Reason::FastRx)))
    };
    let before = past_the_stack();
    let forger = Forger::start(&foe, vec![forged]);
    udp.rounds(ROUNDS);
    drop(forger);
    udp.rounds(ROUNDS);
    assert_eq!(stolen.finish().len(), 0, "of {} answers", 2 * ROUNDS);
    // And they are fast all the same.
    if let (Some(before), Some(after)) = (before, past_the_stack()) {
        let most = ROUNDS as u64;
        assert!(
            after.0 > before.0 + most && after.1 > before.1 + most,
            "{before:?} to {after:?}"
        );
    }
}

/// What the foe sends in pod 1's name is let through by the stack, as flannel does it; it is no part of pod 1's fast flow.
#[rstest]
fn a_fast_flow_is_its_pod_s_alone(#[values(Vxlan, DirectRouting, HostGw, Udp)] setup: Setup) {
    let pair = setup.pair();
    let foe = foe_on(&pair.one, !setup.flags().contains(&"--pod-hook=bridge"));
    let gateway: Mac = {
        let shown = pair.one.exec("ip -o link show dev cni0");
        let mut words = shown.split_whitespace().skip_while(|w| *w != "link/ether");
        let bytes = words.nth(1).unwrap().split(':');
        let bytes: Vec<u8> = bytes.map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
        bytes.try_into().unwrap()
    };
    let udp = fast_udp(&pair);
    udp.rounds(ROUNDS);
    let [client, server] = udp.ports();
    let forged = datagram(
        [mac(&foe), gateway],
        to(&pair.pod1, client),
        to(&pair.pod2, server),
    );
    let before = fast(&pair.one).unwrap().0;
    assert!(before > 0, "pod 1's own are fast");
    let seen = at_pods(&pair.one);
    let forger = Forger::start(&foe, vec![forged]);
    forger.sends(1000);
    drop(forger);
    assert_eq!(fast(&pair.one).unwrap().0, before, "none of the foe's");
    let seen = at_pods(&pair.one) - seen;
    assert!(seen >= 1000, "the program saw {seen} of the foe's");
}

/// Packets from pods that their program has judged, whatever it said.
fn at_pods(daemon: &AnyDaemon) -> u64 {
    let agent = daemon.agent().expect("ours");
    let reasons = Reason::ALL.iter();
    reasons.map(|reason| count(agent, PodTx, *reason)).sum()
}
