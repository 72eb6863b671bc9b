//! Real ESP between nodes: what policies want encrypted is on the wire as ESP and as nothing else, large and small, and all of it arrives.
//! (What policies forbid, and what cannot be encrypted, is in `e2e_ipsec`.)

#![cfg(test)]

use std::net::Ipv4Addr;

use flannel_tests::fast_path::{gets_fast, hooked_if_ours, ours, talk_udp};
use flannel_tests::network::Backend;
use flannel_tests::pair::{Kind, Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::talk;
use flannel_tests::ways::{carries_everything, host_gw, vxlan};
use rstest::rstest;

const PREFIX: &str = "/coreos.com/network";
const CIDR: &str = "10.244.0.0/16";
const ROUNDS: usize = 50;

/// AES-GCM of 128 bits: key and salt.
const KEY: &str = "0x00112233445566778899aabbccddeeff01020304";

/// What is encrypted, and how.
#[derive(Debug, Clone)]
struct Encrypted {
    /// Of the policies; `src` and `dst` are put in front.
    proto: &'static str,
    mode: &'static str,
    /// Those between whom it is, by node.
    ends: [String; 2],
}

fn nodes(pair: &Pair<AnyDaemon>) -> [&Node; 2] {
    [pair.one.node(), pair.two.node()]
}

impl Encrypted {
    /// Tunnel packets: transport mode between the nodes.
    fn tunnel(pair: &Pair<AnyDaemon>) -> Self {
        Self {
            proto: match pair.net.backend {
                Backend::Ipip => "proto 4",
                Backend::Udp => "proto udp dport 8285",
                _ => "proto udp dport 8472",
            },
            mode: "transport",
            ends: nodes(pair).map(|node| node.address().to_string()),
        }
    }

    /// Pods' own packets: tunnel mode between the nodes' subnets.
    fn pods(pair: &Pair<AnyDaemon>) -> Self {
        Self {
            proto: "",
            mode: "tunnel",
            ends: [&pair.one, &pair.two].map(|daemon| daemon.subnet().to_string()),
        }
    }

    fn policies(&self, own: usize, change: &str, template: bool, pair: &Pair<AnyDaemon>) {
        let other = 1 - own;
        let addresses = nodes(pair).map(Node::address);
        for (direction, from, to) in [("out", own, other), ("in", other, own), ("fwd", other, own)]
        {
            let (src, dst) = (&self.ends[from], &self.ends[to]);
            let proto = self.proto;
            let tmpl = match template {
                true => format!(
                    "tmpl src {} dst {} proto esp mode {}",
                    addresses[from], addresses[to], self.mode
                ),
                false => String::new(),
            };
            nodes(pair)[own].exec(&format!(
                "ip xfrm policy {change} src {src} dst {dst} {proto} dir {direction} {tmpl}"
            ));
        }
    }

    fn begin(&self, pair: &Pair<AnyDaemon>) {
        let addresses: [Ipv4Addr; 2] = nodes(pair).map(Node::address);
        for (from, to) in [(0, 1), (1, 0)] {
            for node in nodes(pair) {
                node.exec(&format!(
                    "ip xfrm state add src {} dst {} proto esp spi 0x10{from} mode {} aead rfc4106(gcm(aes)) {KEY} 128",
                    addresses[from], addresses[to], self.mode
                ));
            }
        }
        // Who takes what is encrypted comes first.
        self.policies(1, "add", true, pair);
        self.policies(0, "add", true, pair);
    }

    fn end(&self, pair: &Pair<AnyDaemon>) {
        for own in [0, 1] {
            self.policies(own, "delete", false, pair);
        }
        for node in nodes(pair) {
            node.exec("ip xfrm state flush");
        }
    }
}

/// What a node sends in clear. (What was encrypted is seen once more where it came out.)
fn in_clear(pair: &Pair<AnyDaemon>) -> [Capture; 2] {
    let pods = [pair.pod1.address(), pair.pod2.address()];
    let addresses = nodes(pair).map(Node::address);
    [(0, 1), (1, 0)].map(|(own, other)| {
        let (here, there) = (addresses[own], addresses[other]);
        let tunnel = format!("src host {here} and dst host {there} and (udp or ip proto 4)");
        let pod = format!("src host {} and dst host {}", pods[own], pods[other]);
        let filter = format!("({tunnel}) or ({pod})");
        Capture::start(nodes(pair)[own], Node::UPLINK, &filter)
    })
}

/// A flow that is as fast as it gets.
#[track_caller]
fn hot(pair: &Pair<AnyDaemon>, flags: &[&str]) -> talk::Udp {
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    talk.rounds(ROUNDS);
    if !flags.contains(&"--fast-path=off") {
        hooked_if_ours(&pair.one);
        hooked_if_ours(&pair.two);
        gets_fast(&ours(pair), |rounds| talk.rounds(rounds));
    }
    talk
}

/// Streams and fragments, pods and nodes, packets as long as pods may send them; encrypted, all of it.
#[track_caller]
fn all_is_encrypted(pair: &Pair<AnyDaemon>, encrypted: &Encrypted, talk: &talk::Udp) {
    // The agents may still be reading the last of the policies.
    eventually("the flow goes on", SOON, || (0..5).all(|_| talk.round()));
    let clear = in_clear(pair);
    let esp = nodes(pair).map(|node| Capture::start(node, Node::UPLINK, "esp"));
    talk.rounds(ROUNDS);
    carries_everything(pair);
    // ESP takes room. Who forbids fragments outside as well has less of it than the MTU says.
    if pair.net.backend == Backend::Vxlan && encrypted.mode == "transport" {
        for way in pair.both_ways() {
            let mtu = way.from.subnet_env().mtu;
            way.client.ping(way.server.address()).whole(mtu).succeeds();
            way.from.node().ping(way.server.address()).succeeds();
        }
    }
    for capture in clear {
        capture.saw_nothing();
    }
    for capture in esp {
        let seen = capture.finish().len();
        assert!(seen > 2 * ROUNDS, "{seen} packets of ESP");
    }
}

/// The policies come while a flow is fast, and go.
#[rstest]
#[case::ours(Mix::Ours, vxlan(), &[])]
#[case::ours_off(Mix::Ours, vxlan(), &["--fast-path=off"])]
#[case::ours_always(Mix::Ours, vxlan(), &["--fast-path=always"])]
#[case::ours_anchor(Mix::Ours, vxlan(), &["--gro=anchor"])]
#[case::ours_xdp(Mix::Ours, vxlan(), &["--xdp=on"])]
#[case::ours_and_flanneld(Mix::OursAndFlanneld, vxlan(), &[])]
#[case::flanneld_and_ours(Mix::FlanneldAndOurs, vxlan(), &[])]
#[case::flanneld(Mix::Flanneld, vxlan(), &[])]
#[case::ours_udp(Mix::Ours, Network::udp(PREFIX, CIDR), &[])]
#[case::flanneld_udp(Mix::Flanneld, Network::udp(PREFIX, CIDR), &[])]
#[case::ours_ipip(Mix::Ours, Network::ipip(PREFIX, CIDR), &[])]
#[case::flanneld_ipip(Mix::Flanneld, Network::ipip(PREFIX, CIDR), &[])]
#[ignore = "needs ESP: cargo xtask test --kernel 6.12"]
fn tunnel_packets_are_encrypted(#[case] mix: Mix, #[case] net: Network, #[case] flags: &[&str]) {
    let lab = Lab::new();
    let net = lab.network(net);
    let pair = Pair::of_daemons_in(lab, net, mix, flags);
    let talk = hot(&pair, flags);
    let encrypted = Encrypted::tunnel(&pair);
    encrypted.begin(&pair);
    for agent in ours(&pair) {
        eventually("the agent has read them", SOON, || {
            agent.log().contains("take the node's own stack")
        });
    }
    all_is_encrypted(&pair, &encrypted, &talk);
    encrypted.end(&pair);
    eventually("the flow goes on", SOON, || talk.round());
    if !flags.contains(&"--fast-path=off") {
        gets_fast(&ours(&pair), |rounds| talk.rounds(rounds));
    }
}

/// Policies are there before the daemons are: not one packet leaves in clear.
#[rstest]
#[ignore = "needs ESP: cargo xtask test --kernel 6.12"]
fn tunnel_packets_are_encrypted_from_the_first(#[values(Kind::Ours, Kind::Flanneld)] kind: Kind) {
    let mix = match kind {
        Kind::Ours => Mix::Ours,
        _ => Mix::Flanneld,
    };
    let mut pair = Pair::of_daemons(mix, &[]);
    let encrypted = Encrypted::tunnel(&pair);
    encrypted.begin(&pair);
    for daemon in [&mut pair.one, &mut pair.two] {
        assert!(daemon.terminate().success());
    }
    let clear = in_clear(&pair);
    for daemon in [&mut pair.one, &mut pair.two] {
        daemon.restart();
    }
    pair.pod1.reaches(&pair.pod2);
    for capture in clear {
        capture.saw_nothing();
    }
    all_is_encrypted(&pair, &encrypted, &talk_udp(&pair.pod1, &pair.pod2));
}

/// Policies about the pods' subnets encrypt what the node forwards: with a tunnel there is none then, without one nothing is fast.
#[rstest]
#[ignore = "needs ESP: cargo xtask test --kernel 6.12"]
fn pods_own_packets_are_encrypted(
    #[values(Mix::Ours, Mix::Flanneld)] mix: Mix,
    #[values(vxlan(), vxlan().direct_routing(), host_gw())] net: Network,
) {
    let lab = Lab::new();
    let net = lab.network(net);
    let pair = Pair::of_daemons_in(lab, net, mix, &[]);
    let talk = hot(&pair, &[]);
    let encrypted = Encrypted::pods(&pair);
    encrypted.begin(&pair);
    // A change of policies ends all proofs: within a second of it.
    eventually("nothing is sent in clear any more", SOON, || {
        let clear = in_clear(&pair);
        for _ in 0..5 {
            talk.round();
        }
        clear.into_iter().all(|capture| capture.finish().is_empty())
    });
    all_is_encrypted(&pair, &encrypted, &talk);
    encrypted.end(&pair);
    eventually("the flow goes on", SOON, || talk.round());
    gets_fast(&ours(&pair), |rounds| talk.rounds(rounds));
}
