//! The backend ipip: among ours, and on kernels that have the device beside real flanneld, which is the control.

#![cfg(test)]

use std::net::SocketAddrV4;

use flannel_common::program::Program::UplinkRx;
use flannel_common::reason::Reason;
use flannel_tests::bpftool::count;
use flannel_tests::fast_path::{
    RULE_REACHES, agents_of, fast_both_ways, goes_on_without_its_agent, received, talk_udp,
};
use flannel_tests::lab::Options;
use flannel_tests::pair::{Kind, Mix, Pair, Way, join};
use flannel_tests::prelude::*;
use flannel_tests::raw::RawIp;
use flannel_tests::stage::{Stage, seen};
use flannel_tests::udp::assert_nothing_lost;
use flannel_tests::{tcp, udp};
use rstest::rstest;

const PREFIX: &str = "/coreos.com/network";
const CIDR: &str = "10.244.0.0/16";
const IPIP: u8 = 4;

fn pair(mix: Mix, flags: &[&str]) -> Pair<AnyDaemon> {
    let lab = Lab::new();
    let net = lab.network(network());
    Pair::of_daemons_in(lab, net, mix, flags)
}

fn network() -> Network {
    Network::ipip(PREFIX, CIDR)
}

/// Every kind of packet, up to the MTU, in both directions, each pod seen as itself.
#[track_caller]
fn talk(pair: &Pair<AnyDaemon>) {
    for Way {
        from,
        client,
        server,
        ..
    } in pair.both_ways()
    {
        let to = server.address();
        let mtu = from.subnet_env().mtu;
        assert_eq!(mtu, 1500 - 20);
        let device = from.node().exec("ip link show flannel.ipip");
        assert!(device.contains(&format!("mtu {mtu} ")), "{device}");
        assert_eq!(client.ping(to).whole(mtu).succeeds().ttl, Some(62));
        assert_eq!(
            client.ping(to).count(1).whole(mtu + 1).told().too_big,
            Some(mtu)
        );
        assert_eq!(
            udp::exchange(client, server, to, 8192).ip(),
            client.address()
        );
        let listener = tcp::Server::on(server);
        let seen = listener.exchange(client, SocketAddrV4::new(to, listener.port()), 4 << 20);
        assert_eq!(seen.client.ip(), client.address());
        from.node().ping(to).succeeds();
    }
}

#[test]
fn e4_pods_talk() {
    talk(&pair(Mix::Ours, &["--ip-masq"]));
}

#[rstest]
#[ignore = "needs ipip: cargo xtask test --kernel 6.12"]
fn e4_pods_of_both_kinds_talk(
    #[values(Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    talk(&pair(mix, &["--ip-masq"]));
}

/// What tells one packet's outer header from another's: TOS, "don't fragment", time to live.
fn outer(packet: &[u8]) -> (u8, bool, u8) {
    let ip = &packet[14..];
    (ip[1], ip[6] & 0x40 != 0, ip[8])
}

/// The outer headers of pings with a TOS byte: one that may be fragmented, and one that may not.
fn headers_of(pair: &Pair<AnyDaemon>) -> Vec<(u8, bool, u8)> {
    let capture = Capture::start(pair.one.node(), Node::UPLINK, "ip proto 4");
    for whole in ["dont", "do"] {
        let to = pair.pod2.address();
        pair.pod1
            .exec(&format!("ping -c 1 -W 5 -Q 0x2a -M {whole} {to}"));
    }
    let seen = capture.packets(4);
    let sent = |packet: &&Vec<u8>| packet[26..30] == pair.one.node().address().octets();
    seen.iter()
        .filter(sent)
        .map(|packet| outer(packet))
        .collect()
}

const EXPECTED: [(u8, bool, u8); 2] = [(0x02, false, 63), (0x02, true, 63)];

#[test]
fn outer_headers_are_as_flannel_s() {
    assert_eq!(headers_of(&pair(Mix::Ours, &[])), EXPECTED);
}

/// The control of what is expected above.
#[test]
#[ignore = "needs ipip: cargo xtask test --kernel 6.12"]
fn outer_headers_of_flanneld_s_device() {
    assert_eq!(headers_of(&pair(Mix::Flanneld, &[])), EXPECTED);
}

#[test]
fn the_lease_is_flannel_s() {
    let pair = pair(Mix::Ours, &[]);
    let key = pair.net.lease_key(pair.one.subnet());
    let lease = pair.lab.etcd().get(&key).expect("a lease");
    let lease = lease.replace(&pair.one.node().address().to_string(), "IP");
    assert_eq!(
        lease,
        r#"{"PublicIP":"IP","PublicIPv6":null,"BackendType":"ipip"}"#
    );
}

#[test]
fn a_restart_loses_no_packet() {
    let mut pair = pair(Mix::Ours, &["--ip-masq"]);
    let subnet = pair.one.subnet();
    let flows = pair.flows();
    pair.one.kill();
    pair.one.restart();
    assert!(pair.one.terminate().success());
    pair.one.restart();
    pair.pod1.ping(pair.pod2.address()).succeeds();
    assert_nothing_lost(flows);
    assert_eq!(pair.one.subnet(), subnet);
}

#[test]
fn flows_are_fast_with_and_without_the_agent() {
    let mut pair = agents_of(network(), Options::default(), &[]);
    fast_both_ways(&pair, received).close();
    goes_on_without_its_agent(&mut pair);
}

/// Its kernel device gives way, and its peers notice nothing.
#[test]
#[ignore = "needs ipip: cargo xtask test --kernel 6.12"]
fn a_node_that_ran_flanneld_becomes_one_of_ours() {
    let lab = Lab::new();
    let net = lab.network(network());
    let old = RealFlanneld::start(lab.node("one"), &net);
    let peer = RealFlanneld::start(lab.node("two"), &net);
    old.follow_leases();
    let (pod1, pod2) = (Pod::on(&old, "pod1"), Pod::on(&peer, "pod2"));
    pod1.reaches(&pod2);
    let subnet = old.subnet();
    let new = Agent::start(old.stop(), &net);
    assert_eq!(new.subnet(), subnet);
    assert_eq!(
        new.exec("ip -o link show type ipip")
            .matches("flannel")
            .count(),
        0
    );
    pod2.reaches(&pod1);
    pod1.ping(pod2.address()).succeeds();
}

/// The stage watches the wire for what leaves under a pod's address.
#[test]
fn pods_leave_as_the_node_and_reach_each_other_as_themselves() {
    let stage = Stage::on_net(Kind::Ours, network());
    let outside = &stage.outside;
    let address = seen(&stage.pod, outside, outside.address());
    assert_eq!(address, stage.address());
    let other = stage.neighbour();
    let address = seen(&other.pod, &stage.pod, stage.pod.address());
    assert_eq!(address, other.pod.address());
}

#[test]
fn neighbours_are_reached_without_the_tunnel_by_direct_routing() {
    let lab = Lab::new();
    let net = lab.network(network().direct_routing());
    let one = join(Kind::Ours, lab.node("one"), &net);
    let two = join(Kind::Ours, lab.node("two"), &net);
    let far = join(Kind::Ours, lab.node_behind_router("far"), &net);
    let [pod1, pod2, pod3] = [&one, &two, &far].map(|member| Pod::on(member, "pod"));
    let goes = |to: &Pod, words: &str| {
        let way = one.node().exec(&format!("ip route get {}", to.address()));
        assert!(way.contains(words), "{way}");
    };
    pod1.reaches(&pod2);
    pod1.reaches(&pod3);
    goes(&pod2, &format!("via {} dev eth0", two.node().address()));
    goes(&pod3, "dev flannel.ipip");
    // Both kinds of peers hold pods of one MTU.
    pod1.ping(pod2.address()).whole(1480).succeeds();
    pod1.ping(pod3.address()).whole(1480).succeeds();
}

/// A rule against the protocol holds for ours as for a kernel device, but for some seconds.
#[rstest]
#[case::in_coming("INPUT -p 4 -j DROP")]
#[case::out_going("OUTPUT -p 4 -j DROP")]
fn the_host_s_firewall_is_asked(#[case] rule: &str) {
    let pair = pair(Mix::Ours, &["--tunnel-firewall=ask"]);
    let at = match rule.starts_with("INPUT") {
        true => &pair.two,
        false => &pair.one,
    };
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    talk.rounds(100);
    at.node().exec(&format!("iptables-nft -I {rule}"));
    eventually("the rule stops the flow", RULE_REACHES, || {
        (0..5).all(|_| !talk.round())
    });
    at.node().exec(&format!("iptables-nft -D {rule}"));
    eventually("the flow goes on", SOON, || talk.round());
}

/// A second card that leads to the peer, and carries less: the programs wait there, and pods hold to it.
#[test]
fn another_card_leads_to_a_peer() {
    let pair = pair(Mix::Ours, &[]);
    let nodes = [pair.one.node(), pair.two.node()];
    let far = nodes[1].netns().name().to_owned();
    nodes[0].exec(&format!(
        "ip link add eth1 mtu 1400 type veth peer name eth1 mtu 1400 netns {far}"
    ));
    let addresses = ["203.0.113.1", "203.0.113.2"];
    for at in [0, 1] {
        let (node, to) = (nodes[at], nodes[1 - at].address());
        let (from, via) = (addresses[at], addresses[1 - at]);
        node.exec(&format!("ip addr add {from}/24 dev eth1"));
        node.exec("ip link set eth1 up");
        node.exec(&format!(
            "ip route add {to}/32 via {via} dev eth1 src {}",
            node.address()
        ));
    }
    for node in nodes {
        eventually("the device's MTU is that of the card", SOON, || {
            let device = node.exec("ip link show flannel.ipip");
            device.contains("mtu 1380 ")
        });
    }
    let agent = pair.two.agent().unwrap();
    let taken = || {
        let all = [Reason::DecapDirect, Reason::DecapGro];
        all.map(|reason| count(agent, UplinkRx, reason))
            .iter()
            .sum::<u64>()
    };
    let before = taken();
    let capture = Capture::start(nodes[1], "eth1", "ip proto 4");
    eventually("pods reach each other by the second card", SOON, || {
        pair.pod1.ping(pair.pod2.address()).count(1).lossless()
            && pair.pod2.ping(pair.pod1.address()).count(1).lossless()
    });
    assert!(!capture.finish().is_empty());
    eventually("the programs take them there", SOON, || {
        pair.pod1.ping(pair.pod2.address()).count(5).lossless() && taken() >= before + 5
    });
    let listener = tcp::Server::on(&pair.pod2);
    let to = SocketAddrV4::new(pair.pod2.address(), listener.port());
    listener.exchange(&pair.pod1, to, 1 << 20);
}

/// A tunnel of the operator's between the same nodes, of which we take nothing.
#[test]
fn who_else_has_the_protocol_gets_its_packets() {
    let pair = pair(Mix::Ours, &[]);
    let [one, two] = [&pair.one, &pair.two].map(|member| member.node());
    let inside = Ipv4Packet::between([10, 9, 0, 1], [10, 9, 0, 2]);
    let listener = RawIp::open(two, IPIP);
    RawIp::open(one, IPIP).send(&inside, two.address());
    assert_eq!(listener.receive(), inside);
    let agent = pair.two.agent().unwrap();
    for reason in [Reason::UnknownVtep, Reason::SpoofedSource] {
        assert_eq!(count(agent, UplinkRx, reason), 0, "{reason:?}");
    }
}

struct Ipv4Packet;

impl Ipv4Packet {
    fn between(src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ipv4(src, dst, 64).udp(1000, 2000);
        let mut packet = Vec::new();
        builder.write(&mut packet, b"not flannel's").unwrap();
        packet
    }
}
