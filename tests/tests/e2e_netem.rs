//! Bad wires (`tc netem`), as who tests a cluster makes them: on a node's uplink, in a pod, at a pod's port. Every packet has its
//! delay, fast or not, and what is lost, doubled or out of order is TCP's to put right.

#![cfg(test)]

use flannel_tests::bandwidth::passed;
use flannel_tests::bridge_port::unfit_if_ours;
use flannel_tests::fast_path::{gets_fast, ours, talk_tcp, talk_udp, to};
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use flannel_tests::setups::Setup::{self, *};
use flannel_tests::tcp;
use flannel_tests::with_daemon::AnyDaemon;
use rstest::rstest;

const ROUNDS: usize = 200;

/// Where the wire is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Uplink,
    /// As Chaos Mesh and its like have it.
    Pod,
    Port,
}

impl Place {
    fn spoil(self, pair: &Pair<AnyDaemon>, how: &str) {
        let netem = |device: &str| format!("tc qdisc add dev {device} root netem {how}");
        match self {
            Self::Uplink => pair.one.exec(&netem(Node::UPLINK)),
            Self::Pod => pair.pod1.exec(&netem("eth0")),
            Self::Port => pair.one.exec(&netem(pair.pod1.port())),
        };
    }

    fn seen(self, pair: &Pair<AnyDaemon>) -> u64 {
        match self {
            Self::Uplink => passed(&pair.one, Node::UPLINK),
            Self::Pod => passed(&pair.pod1, "eth0"),
            Self::Port => passed(&pair.one, pair.pod1.port()),
        }
    }
}

#[rstest]
#[ignore = "needs netem: cargo xtask test --kernel 6.12"]
fn every_packet_is_late(
    #[values(Vxlan, VxlanAlways, HostGw, Flanneld)] setup: Setup,
    #[values(Place::Uplink, Place::Pod, Place::Port)] place: Place,
) {
    let pair = setup.pair();
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    gets_fast(&ours(&pair), |rounds| talk.rounds(rounds));
    place.spoil(&pair, "delay 1ms");
    match place {
        Place::Port => unfit_if_ours(&pair.one, pair.pod1.port()),
        // The wire is as good as any to what is in front of it.
        Place::Uplink | Place::Pod => gets_fast(&ours(&pair), |rounds| talk.rounds(rounds)),
    }
    let before = place.seen(&pair);
    talk.rounds(ROUNDS);
    let seen = place.seen(&pair) - before;
    assert!(seen >= ROUNDS as u64, "{seen} of {ROUNDS}");
}

#[rstest]
#[ignore = "needs netem: cargo xtask test --kernel 6.12"]
fn streams_arrive_whole(
    #[values(Vxlan, VxlanAlways, DirectRouting, HostGw, Udp, Flanneld)] setup: Setup,
    #[values(Place::Uplink, Place::Pod)] place: Place,
) {
    let pair = setup.pair();
    let mut talk = talk_tcp(&pair.pod1, &pair.pod2);
    gets_fast(&ours(&pair), |rounds| talk.rounds(rounds));
    place.spoil(
        &pair,
        "delay 2ms 1ms reorder 20% 50% duplicate 3% loss 2% corrupt 1%",
    );
    talk.rounds(ROUNDS / 4);
    for (client, server) in [(&pair.pod1, &pair.pod2), (&pair.pod2, &pair.pod1)] {
        let listener = tcp::Server::on(server);
        listener.exchange(client, to(server, listener.port()), 1 << 20);
    }
}
