//! The host's firewall on tunnel packets (INPUT and OUTPUT): ban a node, or close the port. It holds for ours as for a kernel vxlan
//! device, but for some seconds until the programs have asked.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests panic to keep their backtraces"
)]

use std::time::{Duration, Instant};

use flannel_tests::fast_path::{RULE_REACHES, fast, gets_fast, hooked_if_ours, ours, talk_udp};
use flannel_tests::pair::{Kind, Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::udp::assert_nothing_lost;
use flannel_tests::with_daemon::{self, AnyDaemon};
use rstest::rstest;

fn vxlan() -> Network {
    Network::vxlan("/coreos.com/network", "10.244.0.0/16")
}

#[track_caller]
fn pair(mix: Mix, net: Network, flags: &[&str]) -> Pair<AnyDaemon> {
    let lab = Lab::new();
    let net = lab.network(net);
    let member = |kind, name| {
        let asks: &[&str] = match kind {
            Kind::Ours => &["--tunnel-firewall=ask"],
            _ => &[],
        };
        with_daemon::start(kind, lab.node(name), &net, &[flags, asks].concat())
    };
    let (one, two) = mix.kinds();
    let (one, two) = (member(one, "one"), member(two, "two"));
    let pair = Pair::of(lab, net, one, two);
    if !flags.contains(&"--fast-path=off") {
        hooked_if_ours(&pair.one);
        hooked_if_ours(&pair.two);
    }
    pair
}

/// What a rule is about, at the node that it is on; `PEER` stands for the other, `PORT` for the tunnel's.
const FROM_PEER: &str = "INPUT -s PEER -j DROP";
const INTO_PORT: &str = "INPUT -p udp --dport PORT -j DROP";
const TO_PORT: &str = "OUTPUT -p udp --dport PORT -j DROP";

#[track_caller]
fn obeys(mix: Mix, net: Network, flags: &[&str], tool: &str, rule: &str) {
    let pair = pair(mix, net, flags);
    let (one, two) = (&pair.one, &pair.two);
    let at = if rule.starts_with("INPUT") { two } else { one };
    let rule = rule
        .replace("PEER", &one.node().address().to_string())
        .replace("PORT", &pair.net.port.to_string());
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    talk.rounds(100);
    if !flags.contains(&"--fast-path=off") {
        gets_fast(&ours(&pair), |rounds| talk.rounds(rounds));
    }
    at.node().exec(&format!("{tool} -I {rule}"));
    eventually("the rule stops the flow", RULE_REACHES, || {
        (0..5).all(|_| !talk.round())
    });
    for _ in 0..3 {
        assert!(!talk.round());
        let ping = pair.pod1.ping(pair.pod2.address()).count(1).send();
        assert_eq!(ping.received, 0);
    }
    at.node().exec(&format!("{tool} -D {rule}"));
    eventually("the flow goes on", SOON, || talk.round());
    if flags.contains(&"--fast-path=off") {
        talk.rounds(100);
        return;
    }
    let before = fast(one);
    eventually("past the stack again", RULE_REACHES, || {
        talk.round();
        let after = fast(one);
        before.is_none() || after > before
    });
}

#[rstest]
#[case::ours(Mix::Ours, &[])]
#[case::from_flanneld(Mix::FlanneldAndOurs, &[])]
#[case::control(Mix::Flanneld, &[])]
fn a_rule_against_tunnel_packets(
    #[case] mix: Mix,
    #[case] flags: &[&str],
    #[values("iptables-nft", "iptables-legacy")] tool: &str,
    #[values(FROM_PEER, INTO_PORT, TO_PORT)] rule: &str,
) {
    obeys(mix, vxlan(), flags, tool, rule);
}

#[rstest]
fn with_udp(
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
    #[values(FROM_PEER, INTO_PORT, TO_PORT)] rule: &str,
) {
    let net = Network::udp("/coreos.com/network", "10.244.0.0/16");
    obeys(mix, net, &[], "iptables-nft", rule);
}

/// The packets of udp have its port at both ends, also those that ask.
#[rstest]
fn what_asks_for_udp_comes_from_the_port(#[values(Mix::Ours, Mix::Flanneld)] mix: Mix) {
    let net = Network::udp("/coreos.com/network", "10.244.0.0/16");
    let pair = pair(mix, net, &[]);
    let nodes = [&pair.one, &pair.two].map(|daemon| daemon.node());
    for (node, chain) in nodes
        .iter()
        .flat_map(|node| [(node, "OUTPUT"), (node, "INPUT")])
    {
        for rule in [
            "--sport 8285 --dport 8285 -j ACCEPT",
            "--dport 8285 -j DROP",
        ] {
            node.exec(&format!("iptables-nft -A {chain} -p udp {rule}"));
        }
    }
    let met = |node: &Node, chain: &str, number: u32| {
        let rule = node.exec(&format!("iptables-nft -nvxL {chain} {number}"));
        let packets = rule.split_whitespace().next().unwrap();
        packets.parse::<u64>().unwrap()
    };
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    talk.rounds(100);
    eventually("each node has asked", RULE_REACHES, || {
        talk.rounds(1);
        nodes
            .iter()
            .all(|node| met(node, "OUTPUT", 1) > 2 && met(node, "INPUT", 1) > 2)
    });
    for node in nodes {
        assert_eq!((met(node, "OUTPUT", 2), met(node, "INPUT", 2)), (0, 0));
    }
}

#[rstest]
fn with_every_kind_of_fast_path(
    #[values(
        "--fast-path=off",
        "--fast-path=always",
        "--pod-hook=bridge",
        "--gro=anchor",
        "--xdp=on"
    )]
    flag: &str,
    #[values(FROM_PEER, TO_PORT)] rule: &str,
) {
    obeys(Mix::Ours, vxlan(), &[flag], "iptables-nft", rule);
}

/// As docs/drop-in.md says: unless the agent is told to ask, no rule of the host's is met.
#[rstest]
fn nobody_asks_unless_told_to(#[values("--fast-path=verified", "--fast-path=off")] flag: &str) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let [one, two] =
        ["one", "two"].map(|name| with_daemon::start(Kind::Ours, lab.node(name), &net, &[flag]));
    let pair = Pair::of(lab, net, one, two);
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    for daemon in [&pair.one, &pair.two] {
        for rule in [INTO_PORT, TO_PORT] {
            let rule = rule.replace("PORT", &pair.net.port.to_string());
            daemon.node().exec(&format!("iptables-nft -I {rule}"));
        }
    }
    let flows = pair.flows();
    turns_of_asking(|| talk.rounds(1));
    assert_nothing_lost(flows);
}

/// What was last known stays: nobody asks, and nothing is lost for it.
#[rstest]
#[case::ours(Mix::Ours, &[])]
#[case::ours_off(Mix::Ours, &["--fast-path=off"])]
#[case::ours_anchor(Mix::Ours, &["--gro=anchor"])]
#[case::control(Mix::Flanneld, &[])]
fn without_an_agent_packets_go_on(#[case] mix: Mix, #[case] flags: &[&str]) {
    let mut pair = pair(mix, vxlan(), flags);
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    talk.rounds(100);
    pair.one.kill();
    pair.two.kill();
    past_the_last_question();
    let flows = pair.flows();
    turns_of_asking(|| talk.rounds(1));
    assert_nothing_lost(flows);
}

/// A peer that the firewall refused when the agent died stays refused. It is for the next agent to hear that it is no more.
#[rstest]
#[case::ours(Mix::Ours, &[])]
#[case::ours_off(Mix::Ours, &["--fast-path=off"])]
#[case::ours_anchor(Mix::Ours, &["--gro=anchor"])]
#[case::control(Mix::Flanneld, &[])]
fn without_an_agent_a_rule_still_holds(
    #[case] mix: Mix,
    #[case] flags: &[&str],
    #[values(FROM_PEER, TO_PORT)] rule: &str,
) {
    let mut pair = pair(mix, vxlan(), flags);
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    talk.rounds(100);
    let rule = rule
        .replace("PEER", &pair.one.node().address().to_string())
        .replace("PORT", &pair.net.port.to_string());
    let node = match rule.starts_with("INPUT") {
        true => pair.two.node_arc(),
        false => pair.one.node_arc(),
    };
    node.exec(&format!("iptables-nft -I {rule}"));
    eventually("the rule stops the flow", RULE_REACHES, || {
        (0..5).all(|_| !talk.round())
    });
    pair.one.kill();
    pair.two.kill();
    past_the_last_question();
    turns_of_asking(|| assert!(!talk.round()));
    node.exec(&format!("iptables-nft -D {rule}"));
    pair.one.restart();
    pair.two.restart();
    eventually("the flow goes on", RULE_REACHES, || talk.round());
    talk.rounds(100);
}

/// What an agent that was there until now is asked is lost with it.
fn past_the_last_question() {
    let since = Instant::now();
    eventually("its last word is old", SOON, || {
        since.elapsed() > Duration::from_secs(1)
    });
}

/// Whoever asks does so every five seconds: three times by the end of this.
#[track_caller]
fn turns_of_asking(mut meanwhile: impl FnMut()) {
    let since = Instant::now();
    eventually("three turns of asking", 2 * RULE_REACHES, || {
        meanwhile();
        since.elapsed() > Duration::from_secs(16)
    });
}
