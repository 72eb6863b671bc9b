//! Policies of IPsec about tunnel packets (`ip xfrm policy`): what they say holds for ours as for a kernel vxlan device. Nothing
//! is sent, and nothing is taken, in clear that they want encrypted.
//!
//! Where the kernel has no ESP a template that is required lets nothing pass; one that is optional (`level use`) lets
//! packets pass as they are, by the same way.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests panic to keep their backtraces"
)]

use std::net::Ipv4Addr;

use flannel_common::program::Program::{OverlayCatch, OverlayTx, UplinkRx};
use flannel_common::reason::Reason;
use flannel_tests::bpftool::count;
use flannel_tests::capture::Capture;
use flannel_tests::fast_path::{
    self, fast_udp, gets_fast, hooked_if_ours, ours, pair_of, received, talk_udp, to,
};
use flannel_tests::lab::Options;
use flannel_tests::pair::{Kind, Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::with_daemon::AnyDaemon;
use flannel_tests::{talk, tcp};
use rstest::rstest;

const REQUIRED: &str = "tmpl proto esp mode transport";
const OPTIONAL: &str = "tmpl proto esp mode transport level use";
const FORBIDDEN: &str = "action block";

/// A policy at `node` about tunnel packets.
struct Policy<'a> {
    node: &'a Node,
    selector: String,
}

impl<'a> Policy<'a> {
    fn add(at: &'a AnyDaemon, direction: &str, peer: &AnyDaemon, what: &str) -> Self {
        Self::about("proto udp dport 8472", at, direction, peer, what)
    }

    /// `packets`: protocol and ports.
    fn about(
        packets: &str,
        at: &'a AnyDaemon,
        direction: &str,
        peer: &AnyDaemon,
        what: &str,
    ) -> Self {
        let (here, there): (Ipv4Addr, Ipv4Addr) = (
            at.node().address().to_string().parse().unwrap(),
            peer.node().address().to_string().parse().unwrap(),
        );
        let (from, to) = match direction {
            "out" => (here, there),
            _ => (there, here),
        };
        let selector = format!("src {from} dst {to} {packets} dir {direction}");
        at.node()
            .exec(&format!("ip xfrm policy add {selector} {what}"));
        Self {
            node: at.node(),
            selector,
        }
    }

    fn remove(self) {
        self.node
            .exec(&format!("ip xfrm policy delete {}", self.selector));
    }
}

fn by_stack(daemon: &AnyDaemon) -> Option<u64> {
    let agent = daemon.agent()?;
    let all = [OverlayTx, OverlayCatch, UplinkRx];
    Some(
        all.iter()
            .map(|program| count(agent, *program, Reason::ByStack))
            .sum(),
    )
}

#[track_caller]
fn pair(mix: Mix, flags: &[&str]) -> Pair<AnyDaemon> {
    let pair = Pair::of_daemons(mix, flags);
    if !flags.contains(&"--fast-path=off") {
        hooked_if_ours(&pair.one);
        hooked_if_ours(&pair.two);
    }
    pair
}

/// A flow that is as fast as it gets.
#[track_caller]
fn hot(pair: &Pair<AnyDaemon>, flags: &[&str]) -> talk::Udp {
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    talk.rounds(50);
    if !flags.contains(&"--fast-path=off") {
        gets_fast(&ours(pair), |rounds| talk.rounds(rounds));
    }
    talk
}

/// One round that does not come back may be late and no more.
#[track_caller]
fn stops(talk: &talk::Udp) {
    eventually("the policy stops the flow", SOON, || {
        (0..5).all(|_| !talk.round())
    });
}

/// Nothing in clear, from a flow that was hot; and all as before when the policy is gone.
#[rstest]
#[case::ours(Mix::Ours, &[])]
#[case::ours_off(Mix::Ours, &["--fast-path=off"])]
#[case::ours_always(Mix::Ours, &["--fast-path=always"])]
#[case::ours_anchor(Mix::Ours, &["--gro=anchor"])]
#[case::ours_xdp(Mix::Ours, &["--xdp=on"])]
#[case::control(Mix::Flanneld, &[])]
fn what_cannot_be_encrypted_is_not_sent(
    #[case] mix: Mix,
    #[case] flags: &[&str],
    #[values(REQUIRED, FORBIDDEN)] what: &str,
) {
    let pair = pair(mix, flags);
    let talk = hot(&pair, flags);
    let policy = Policy::add(&pair.one, "out", &pair.two, what);
    stops(&talk);
    let from = pair.one.node().address();
    let filter = format!("udp port 8472 and src {from}");
    let wire = Capture::start(pair.two.node(), "eth0", &filter);
    for _ in 0..3 {
        assert!(!talk.round());
        let ping = pair.pod1.ping(pair.pod2.address()).count(1).send();
        assert_eq!(ping.received, 0);
        let ping = pair.one.node().ping(pair.pod2.address()).count(1).send();
        assert_eq!(ping.received, 0);
    }
    assert_eq!(wire.finish().len(), 0, "tunnel packets in clear");
    policy.remove();
    eventually("the flow goes on", SOON, || talk.round());
    talk.rounds(50);
}

/// What comes in clear is not taken, from a flow that was hot.
#[rstest]
#[case::ours(Mix::Ours, &[])]
#[case::ours_off(Mix::Ours, &["--fast-path=off"])]
#[case::ours_always(Mix::Ours, &["--fast-path=always"])]
#[case::ours_anchor(Mix::Ours, &["--gro=anchor"])]
#[case::ours_xdp(Mix::Ours, &["--xdp=on"])]
#[case::from_flanneld(Mix::FlanneldAndOurs, &[])]
#[case::control(Mix::Flanneld, &[])]
fn what_comes_in_clear_is_not_taken(
    #[case] mix: Mix,
    #[case] flags: &[&str],
    #[values(REQUIRED, FORBIDDEN)] what: &str,
) {
    let pair = pair(mix, flags);
    let talk = hot(&pair, flags);
    let policy = Policy::add(&pair.two, "in", &pair.one, what);
    stops(&talk);
    for _ in 0..3 {
        assert!(!talk.round());
        let ping = pair.pod1.ping(pair.pod2.address()).count(1).send();
        assert_eq!(ping.received, 0);
    }
    policy.remove();
    eventually("the flow goes on", SOON, || talk.round());
    talk.rounds(50);
}

/// Both ways by the stack: small and large, pods and nodes, cut up and put together.
#[rstest]
#[case::ours(Mix::Ours, &[])]
#[case::ours_off(Mix::Ours, &["--fast-path=off"])]
#[case::ours_always(Mix::Ours, &["--fast-path=always"])]
#[case::ours_anchor(Mix::Ours, &["--gro=anchor"])]
#[case::ours_xdp(Mix::Ours, &["--xdp=on"])]
#[case::to_flanneld(Mix::OursAndFlanneld, &[])]
#[case::control(Mix::Flanneld, &[])]
fn by_the_stack_all_arrives(#[case] mix: Mix, #[case] flags: &[&str]) {
    let pair = pair(mix, flags);
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    talk.rounds(50);
    for (at, peer) in [(&pair.one, &pair.two), (&pair.two, &pair.one)] {
        Policy::add(at, "out", peer, OPTIONAL);
        Policy::add(at, "in", peer, OPTIONAL);
    }
    for daemon in [&pair.one, &pair.two] {
        if let Some(agent) = daemon.agent() {
            eventually("the agent has read them", SOON, || {
                agent.log().contains("take the node's own stack")
            });
        }
    }
    let fast = fast_path::fast(&pair.one);
    let before = by_stack(&pair.one);
    talk.rounds(50);
    for way in pair.both_ways() {
        let server = tcp::Server::on(way.server);
        let at = to(way.server, server.port());
        server.exchange(way.client, at, 1 << 20);
        // The agents may still be reading the last of the policies.
        let large = || way.client.ping(way.server.address()).whole(1450);
        eventually("large packets arrive", SOON, || large().lossless());
        large().succeeds();
        way.from.node().ping(way.server.address()).succeeds();
    }
    assert_eq!(fast, fast_path::fast(&pair.one), "past the stack");
    if let (Some(before), Some(after)) = (before, by_stack(&pair.one)) {
        assert!(after > before + 50, "{before} to {after}");
    }
}

/// What is forwarded between pods' subnets, as IPsec in tunnel mode between nodes is set up: without a tunnel of ours such packets are the
/// uplink's own.
#[rstest]
fn policies_about_pods_hold_without_a_tunnel(
    #[values(
        Some(&["--fast-path=verified"][..]),
        Some(&["--fast-path=always"][..]),
        None
    )]
    flags: Option<&'static [&'static str]>,
    #[values("host-gw", "DirectRouting")] network: &str,
) {
    let net = match network {
        "host-gw" => Network::host_gw("/coreos.com/network", "10.244.0.0/16"),
        _ => Network::vxlan("/coreos.com/network", "10.244.0.0/16").direct_routing(),
    };
    let kind = flags.map_or(Kind::Flanneld, |_| Kind::Ours);
    let pair = pair_of(kind, net, Options::default(), flags.unwrap_or_default());
    let talk = fast_udp(&pair);
    let (from, to) = (pair.one.subnet(), pair.two.subnet());
    let node = pair.two.node();
    let selector = format!("src {from} dst {to} dir fwd");
    let template = "tmpl src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel";
    node.exec(&format!("ip xfrm policy add {selector} {template}"));
    stops(&talk);
    node.exec(&format!("ip xfrm policy delete {selector}"));
    eventually("the flow goes on", SOON, || (0..20).all(|_| talk.round()));
    // Optional, it lets in clear packets pass: but each of them is looked at.
    node.exec(&format!(
        "ip xfrm policy add {selector} {template} level use"
    ));
    if let Some(agent) = pair.two.agent() {
        eventually("all are by the stack", SOON, || {
            let before = received(agent);
            talk.rounds(20);
            received(agent) == before
        });
    }
    talk.rounds(20);
}

/// The packets of the backend udp have its port at both ends, and a policy may name either.
#[rstest]
fn of_udp_a_policy_may_name_both_ports(
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
    #[values("proto udp sport 8285", "proto udp sport 8285 dport 8285")] packets: &str,
) {
    let lab = Lab::new();
    let net = lab.network(Network::udp("/coreos.com/network", "10.244.0.0/16"));
    let pair = Pair::of_daemons_in(lab, net, mix, &[]);
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    talk.rounds(50);
    let policy = Policy::about(packets, &pair.one, "out", &pair.two, FORBIDDEN);
    stops(&talk);
    let filter = format!("udp port 8285 and src {}", pair.one.node().address());
    let wire = Capture::start(pair.two.node(), "eth0", &filter);
    for _ in 0..3 {
        assert!(!talk.round());
        let ping = pair.pod1.ping(pair.pod2.address()).count(1).send();
        assert_eq!(ping.received, 0);
    }
    assert_eq!(wire.finish().len(), 0, "tunnel packets in clear");
    policy.remove();
    eventually("the flow goes on", SOON, || talk.round());
    talk.rounds(50);
}

/// A policy that lets pass, for what ipip's socket sends: IPsec makes packets longer, and nobody could tell a pod.
#[test]
fn what_ipip_sends_by_the_stack_may_be_fragmented() {
    let lab = Lab::new();
    let net = lab.network(Network::ipip("/coreos.com/network", "10.244.0.0/16"));
    let pair = Pair::of_daemons_in(lab, net, Mix::Ours, &[]);
    let node = pair.one.node();
    let ping = || pair.pod1.ping(pair.pod2.address()).count(1).whole(1480);
    let sends = |dont_fragment: bool| {
        let filter = format!("ip proto 4 and src {}", node.address());
        let capture = Capture::start(node, Node::UPLINK, &filter);
        assert!(ping().lossless());
        capture
            .packets(1)
            .iter()
            .all(|packet| (packet[14 + 6] & 0x40 != 0) == dont_fragment)
    };
    assert!(sends(true), "as a kernel device");
    Policy::about("proto 4", &pair.one, "out", &pair.two, OPTIONAL);
    eventually("the agent's socket sends", SOON, || {
        ping().lossless() && by_stack(&pair.one).is_some_and(|packets| packets > 0)
    });
    eventually("without DF", SOON, || sends(false));
}

/// Encrypted in earnest: full packets of pods become longer than the way carries.
#[rstest]
#[ignore = "needs ipip and ESP: cargo xtask test --kernel 6.12"]
fn full_packets_of_ipip_arrive_encrypted(#[values(Mix::Ours, Mix::Flanneld)] mix: Mix) {
    let lab = Lab::new();
    let net = lab.network(Network::ipip("/coreos.com/network", "10.244.0.0/16"));
    let pair = Pair::of_daemons_in(lab, net, mix, &[]);
    let [one, two] = [&pair.one, &pair.two].map(|daemon| daemon.node().address());
    for daemon in [&pair.one, &pair.two] {
        for (from, to, spi) in [(one, two, "0x101"), (two, one, "0x102")] {
            let key = "0x000102030405060708090a0b0c0d0e0f10111213";
            daemon.node().exec(&format!(
                "ip xfrm state add src {from} dst {to} proto esp spi {spi} mode transport aead rfc4106(gcm(aes)) {key} 128"
            ));
        }
    }
    for (at, peer) in [(&pair.one, &pair.two), (&pair.two, &pair.one)] {
        Policy::about("proto 4", at, "out", peer, REQUIRED);
        Policy::about("proto 4", at, "in", peer, REQUIRED);
    }
    let wire = Capture::start(pair.one.node(), "eth0", "ip proto 50");
    eventually("pods reach each other", SOON, || {
        pair.pod1.ping(pair.pod2.address()).count(1).lossless()
    });
    assert!(!wire.finish().is_empty(), "nothing is encrypted");
    for way in pair.both_ways() {
        let server = tcp::Server::on(way.server);
        let at = to(way.server, server.port());
        server.exchange(way.client, at, 1 << 20);
    }
}
