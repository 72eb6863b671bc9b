//! Marks by which packets are routed: a fast flow takes the way that the stack would, as with flanneld.

#![cfg(test)]

use flannel_tests::fast_path::{
    RULE_REACHES, epoch, fast, fast_udp, gets_fast, ours, talk_udp, was_fast,
};
use flannel_tests::netns::Netns;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use flannel_tests::setups::Setup::{self, *};
use flannel_tests::with_daemon::AnyDaemon;
use rstest::rstest;

const ROUNDS: usize = 200;

/// MAC of a device.
fn mac(netns: &Netns, device: &str) -> String {
    let shown = netns.run(&format!("ip link show dev {device}"));
    let mut words = shown.split_whitespace().skip_while(|w| *w != "link/ether");
    words.nth(1).unwrap().to_owned()
}

/// Sends what is marked, and the node's own packets around it, by way of the router.
fn marks_take_the_router(pair: &Pair<AnyDaemon>) {
    let router = pair.lab.router();
    // It would say that it is not needed, and be believed.
    for device in ["all", "switch"] {
        router.sysctl(&format!("net.ipv4.conf.{device}.send_redirects"), 0);
    }
    router.run(&format!(
        "ip route add {} via {}",
        pair.two.subnet(),
        pair.two.node().address()
    ));
    let node = pair.one.node();
    let (peer, pod) = (pair.two.node().address(), pair.pod1.address());
    for line in [
        format!("ip route add {peer}/32 via 172.30.0.254 dev eth0 table 100"),
        format!(
            "ip route add {} via 172.30.0.254 dev eth0 table 101",
            pair.two.subnet()
        ),
        "ip rule add fwmark 5 lookup 100 priority 100".to_owned(),
        format!("iptables-nft -t mangle -A FORWARD -s {pod} -j MARK --set-mark 5"),
    ] {
        node.exec(&line);
    }
}

/// Packets to the other node's pod, in the tunnel or not, that leave for a neighbour.
fn leaving(pair: &Pair<AnyDaemon>, mac: &str) -> Capture {
    let (peer, pod) = (pair.two.node().address(), pair.pod2.address());
    let port = pair.net.port;
    let filter = format!(
        "ether dst {mac} and udp and (dst host {pod} or (dst host {peer} and dst port {port}))"
    );
    Capture::start(pair.one.node(), Node::UPLINK, &filter)
}

/// The tunnel's own packets are routed by the mark of what is in them, as the kernel's device does it.
#[rstest]
fn the_tunnel_goes_by_the_mark_inside(#[values(Vxlan, VxlanAtBridge, Flanneld)] setup: Setup) {
    let pair = setup.pair();
    let talk = fast_udp(&pair);
    marks_take_the_router(&pair);
    takes_the_router(&pair, || talk.rounds(ROUNDS));
    // Without a tunnel it would be the stack's from now on (docs/fast-path.md).
    gets_fast(&ours(&pair), |rounds| talk.rounds(rounds));
}

/// A process carries them with flanneld: its datagrams have no mark, whatever is in them.
#[rstest]
fn the_tunnel_of_a_process_goes_by_no_mark(
    #[values(Udp, UdpAtBridge, UdpAlways, FlanneldUdp)] setup: Setup,
) {
    let pair = setup.pair();
    marks_take_the_router(&pair);
    let neighbour = mac(pair.two.node().netns(), "eth0");
    let straight = leaving(&pair, &neighbour);
    talk_udp(&pair.pod1, &pair.pod2).rounds(ROUNDS);
    straight.packets(ROUNDS);
    assert_eq!(straight.finish().len(), ROUNDS);
}

/// Without a tunnel, a rule by the mark that PREROUTING gives.
#[rstest]
fn a_pod_is_routed_by_its_mark(
    #[values(DirectRouting, HostGw, HostGwAtBridge, FlanneldHostGw)] setup: Setup,
) {
    let pair = setup.pair();
    let talk = fast_udp(&pair);
    marks_take_the_router(&pair);
    let pod = pair.pod1.address();
    pair.one
        .exec("ip rule add fwmark 6 lookup 101 priority 101");
    pair.one.exec(&format!(
        "iptables-nft -t mangle -A PREROUTING -s {pod} -j MARK --set-mark 6"
    ));
    pair.one.exec("iptables-nft -t mangle -F FORWARD");
    takes_the_router(&pair, || talk.rounds(ROUNDS));
}

/// The same for one that goes by the source.
#[rstest]
fn a_pod_is_routed_by_its_source(#[values(DirectRouting, HostGw, FlanneldHostGw)] setup: Setup) {
    let pair = setup.pair();
    let talk = fast_udp(&pair);
    marks_take_the_router(&pair);
    pair.one.exec("iptables-nft -t mangle -F FORWARD");
    let pod = pair.pod1.address();
    pair.one
        .exec(&format!("ip rule add from {pod} lookup 101 priority 101"));
    takes_the_router(&pair, || talk.rounds(ROUNDS));
}

/// Once the last proof of the old way is over.
#[track_caller]
fn takes_the_router(pair: &Pair<AnyDaemon>, rounds: impl Fn()) {
    let neighbour = mac(pair.two.node().netns(), "eth0");
    let router = mac(pair.lab.router(), "switch");
    eventually("nothing goes the old way", RULE_REACHES, || {
        let straight = leaving(pair, &neighbour);
        rounds();
        straight.finish().is_empty()
    });
    let around = leaving(pair, &router);
    rounds();
    around.packets(ROUNDS);
    assert_eq!(around.finish().len(), ROUNDS);
}

/// Marks by which nothing is routed do no harm.
#[rstest]
fn other_marks_keep_a_flow_fast(#[values(Vxlan, HostGw, Udp)] setup: Setup) {
    let pair = setup.pair();
    let pod = pair.pod1.address();
    pair.one.exec(&format!(
        "iptables-nft -t mangle -A FORWARD -s {pod} -j MARK --set-mark 0x10000"
    ));
    pair.one
        .exec("ip rule add fwmark 5 lookup 100 priority 100");
    let before = fast(&pair.one);
    talk_udp(&pair.pod1, &pair.pod2).rounds(ROUNDS);
    was_fast(&pair.one, before, 150);
}

/// A quarantine by a route or a rule, on either node: what it is about stops, and goes on when it is taken back.
#[rstest]
fn a_way_to_nowhere_ends_a_running_flow(
    #[values(
        Vxlan,
        VxlanAtBridge,
        DirectRouting,
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
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    let (one, two) = (pair.pod1.address(), pair.pod2.address());
    let ways = [
        (&pair.two, "route", format!("blackhole {two}/32")),
        (&pair.one, "route", format!("blackhole {two}/32")),
        (&pair.one, "rule", format!("from {one} blackhole")),
        (&pair.two, "rule", format!("to {two} unreachable")),
    ];
    for (node, what, way) in ways {
        let before = fast(&pair.one);
        talk.rounds(50);
        was_fast(&pair.one, before, 10);
        noticed(node, &format!("ip {what} add {way}"));
        assert!((0..3).all(|_| !talk.round()), "{what} {way}");
        noticed(node, &format!("ip {what} del {way}"));
        eventually("the flow goes on", SOON, || talk.round());
    }
}

/// Ours ends all proofs by it, sooner than any would end by itself.
#[track_caller]
fn noticed(node: &AnyDaemon, change: &str) {
    let before = node.agent().map(epoch);
    node.exec(change);
    if let (Some(agent), Some(before)) = (node.agent(), before) {
        eventually("the agent ends all proofs", RULE_REACHES / 3, || {
            epoch(agent) > before
        });
    }
}
