//! Rules that change packets without translating them: what they write is on every packet of a flow, whether it is fast or
//! not, as it is with flanneld.

#![cfg(test)]

use flannel_tests::fast_path::{fast, talk_tcp, talk_udp, was_fast};
use flannel_tests::network::Backend;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use flannel_tests::setups::Setup::{self, *};
use flannel_tests::with_daemon::AnyDaemon;
use rstest::rstest;

const ROUNDS: usize = 300;

/// Adds a rule to what the first node forwards.
fn rule(pair: &Pair<AnyDaemon>, rule: &str) {
    let chain = "iptables-nft -t mangle -A FORWARD";
    pair.one.exec(&format!("{chain} {rule}"));
}

/// All that reached a pod over UDP and TCP.
fn arriving(daemon: &AnyDaemon, pod: &Pod) -> Capture {
    Capture::inside(
        daemon.node(),
        pod.netns(),
        "eth0",
        &format!("(udp or tcp) and dst host {}", pod.address()),
    )
}

/// Talks by both protocols; what reached either pod.
fn talked(pair: &Pair<AnyDaemon>) -> [Vec<Vec<u8>>; 2] {
    let captures = [
        arriving(&pair.one, &pair.pod1),
        arriving(&pair.two, &pair.pod2),
    ];
    let mut tcp = talk_tcp(&pair.pod1, &pair.pod2);
    tcp.rounds(ROUNDS);
    tcp.close();
    talk_udp(&pair.pod1, &pair.pod2).rounds(ROUNDS);
    captures.map(|capture| {
        capture.packets(2 * ROUNDS);
        capture.finish()
    })
}

/// The bytes at one place of all IPv4 headers, each once.
fn values(packets: &[Vec<u8>], at: usize) -> Vec<u8> {
    let mut values: Vec<u8> = packets.iter().map(|packet| packet[14 + at]).collect();
    values.sort_unstable();
    values.dedup();
    values
}

const TOS: usize = 1;
const TTL: usize = 8;

#[rstest]
fn a_dscp_is_on_every_packet(
    #[values(
        Vxlan,
        VxlanAtBridge,
        DirectRouting,
        DirectRoutingAtBridge,
        HostGw,
        HostGwAtBridge,
        Udp,
        UdpAtBridge,
        Flanneld,
        FlanneldHostGw,
        FlanneldUdp
    )]
    setup: Setup,
) {
    let pair = setup.pair();
    rule(&pair, "-s 10.244.0.0/16 -j DSCP --set-dscp 46");
    let before = fast(&pair.one);
    for packets in talked(&pair) {
        assert_eq!(values(&packets, TOS), [46 << 2]);
    }
    was_fast(&pair.one, before, 400);
}

/// The next hop takes one off.
#[rstest]
fn a_ttl_is_on_every_packet(
    #[values(
        Vxlan,
        VxlanAtBridge,
        DirectRouting,
        HostGw,
        HostGwAtBridge,
        Udp,
        UdpAtBridge,
        Flanneld,
        FlanneldUdp
    )]
    setup: Setup,
) {
    let pair = setup.pair();
    rule(&pair, "-s 10.244.0.0/16 -j TTL --ttl-set 33");
    let [to_one, to_two] = talked(&pair);
    assert_eq!(values(&to_one, TTL), [33]);
    let hops = match setup.net().backend {
        // The tunnel is one at either end.
        Backend::Udp => 3,
        _ => 1,
    };
    assert_eq!(values(&to_two, TTL), [33 - hops]);
    if let Some((sent, received)) = fast(&pair.one) {
        assert_eq!((sent, received), (0, 0), "a fast packet's TTL is one less");
    }
}

/// A rule that goes by the DSCP which the pod has set itself: each packet by its own.
#[rstest]
fn packets_of_one_flow_may_be_treated_differently(
    #[values(
        Vxlan,
        VxlanAtBridge,
        DirectRouting,
        HostGw,
        HostGwAtBridge,
        Udp,
        UdpAtBridge,
        Flanneld,
        FlanneldUdp
    )]
    setup: Setup,
) {
    let pair = setup.pair();
    rule(&pair, "-m dscp --dscp 10 -j DSCP --set-dscp 20");
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    let capture = arriving(&pair.two, &pair.pod2);
    for round in 0..ROUNDS {
        talk.set_tos([0, 10 << 2][round / 5 % 2]);
        talk.rounds(1);
    }
    capture.packets(ROUNDS);
    let packets = capture.finish();
    assert_eq!(values(&packets, TOS), [0, 20 << 2]);
}

/// Shapes the first node's uplink: class 1:10 is slow, and all else is not.
fn shape(pair: &Pair<AnyDaemon>) {
    for line in [
        "qdisc add dev eth0 root handle 1: htb default 20",
        "class add dev eth0 parent 1: classid 1:10 htb rate 10mbit",
        "class add dev eth0 parent 1: classid 1:20 htb rate 10gbit",
    ] {
        pair.one.exec(&format!("tc {line}"));
    }
}

/// Packets on the uplink that are in the slow class.
fn in_class(daemon: &AnyDaemon) -> usize {
    let shown = daemon.exec("tc -s class show dev eth0 classid 1:10");
    let sent = shown.lines().find(|line| line.contains("Sent")).unwrap();
    sent.split_whitespace().nth(3).unwrap().parse().unwrap()
}

/// What the pod sends is in the slow class, all of it, fast or not.
#[track_caller]
fn all_is_slow(pair: &Pair<AnyDaemon>) {
    let before = (fast(&pair.one), in_class(&pair.one));
    let [_, to_two] = talked(pair);
    was_fast(&pair.one, before.0, 400);
    let slow = in_class(&pair.one) - before.1;
    assert!(slow >= to_two.len(), "{slow} of {}", to_two.len());
}

#[rstest]
fn a_class_is_every_packet_s(
    #[values(
        Vxlan,
        VxlanAtBridge,
        DirectRouting,
        HostGw,
        HostGwAtBridge,
        Flanneld,
        FlanneldHostGw
    )]
    setup: Setup,
) {
    let pair = setup.pair();
    shape(&pair);
    let pod = pair.pod1.address();
    rule(&pair, &format!("-s {pod} -j CLASSIFY --set-class 1:10"));
    all_is_slow(&pair);
}

/// Loads the mark (`SKF_AD_MARK`), compares it with 5.
const MARK_IS_5: &str = "4,32 0 0 4294963220,21 0 1 5,6 0 0 4294967295,6 0 0 0";

/// A filter of the uplink's queueing discipline reads it.
#[rstest]
fn a_mark_is_on_every_packet(
    #[values(
        Vxlan,
        VxlanAtBridge,
        DirectRouting,
        HostGw,
        HostGwAtBridge,
        Flanneld,
        FlanneldHostGw
    )]
    setup: Setup,
) {
    let pair = setup.pair();
    shape(&pair);
    let file = pair.one.node().folder().join("mark-is-5");
    std::fs::write(&file, MARK_IS_5).unwrap();
    let filter = "tc filter add dev eth0 parent 1: bpf bytecode-file";
    pair.one
        .exec(&format!("{filter} {} flowid 1:10", file.display()));
    let pod = pair.pod1.address();
    rule(&pair, &format!("-s {pod} -j MARK --set-mark 5"));
    all_is_slow(&pair);
}

/// flanneld's proxy makes datagrams of its own: neither is theirs.
#[rstest]
fn the_tunnel_of_a_process_has_neither(#[values(Udp, UdpAtBridge, FlanneldUdp)] setup: Setup) {
    let pair = setup.pair();
    shape(&pair);
    let file = pair.one.node().folder().join("mark-is-5");
    std::fs::write(&file, MARK_IS_5).unwrap();
    let filter = "tc filter add dev eth0 parent 1: bpf bytecode-file";
    pair.one
        .exec(&format!("{filter} {} flowid 1:10", file.display()));
    let pod = pair.pod1.address();
    rule(&pair, &format!("-s {pod} -p udp -j MARK --set-mark 5"));
    rule(
        &pair,
        &format!("-s {pod} -p tcp -j CLASSIFY --set-class 1:10"),
    );
    let before = fast(&pair.one);
    let slow = in_class(&pair.one);
    talked(&pair);
    was_fast(&pair.one, before, 400);
    assert_eq!(in_class(&pair.one) - slow, 0);
}
