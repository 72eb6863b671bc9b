//! Ports of the pod bridge at which more happens than past the stack, or nothing any more: as with flanneld.

#![cfg(test)]

use flannel_tests::bridge_port::{Guest, shaped, unfit_if_ours};
use flannel_tests::fast_path::epoch;
use flannel_tests::fast_path::{fast, talk_udp, to, was_fast};
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use flannel_tests::setups::Setup::{self, *};
use flannel_tests::with_daemon::AnyDaemon;
use flannel_tests::{talk, tcp, udp};
use rstest::rstest;

const ROUNDS: usize = 300;

/// Somebody takes a pod out of traffic, by its port, and puts it back.
#[derive(Debug, Clone, Copy)]
enum Quarantine {
    Down,
    OutOfBridge,
    /// Another state than this one does not last on a bridge without spanning tree (`br_port_state_selection`).
    Disabled,
}

impl Quarantine {
    fn begin(self, port: &str) -> String {
        match self {
            Self::Down => format!("ip link set {port} down"),
            Self::OutOfBridge => format!("ip link set {port} nomaster"),
            Self::Disabled => format!("bridge link set dev {port} state 0"),
        }
    }

    fn end(self, port: &str) -> String {
        match self {
            Self::Down => format!("ip link set {port} up"),
            Self::OutOfBridge => format!("ip link set {port} master cni0"),
            Self::Disabled => format!("bridge link set dev {port} state 3"),
        }
    }
}

/// With the programs on the bridge, packets pass the port whether they are fast or not.
fn ends_proofs(setup: Setup) -> bool {
    !setup.flags().contains(&"--pod-hook=bridge")
}

#[rstest]
fn a_pod_that_is_taken_out_of_traffic_gets_nothing_and_sends_nothing(
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
    #[values(Quarantine::Down, Quarantine::OutOfBridge, Quarantine::Disabled)] how: Quarantine,
) {
    let pair = setup.pair();
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    let before = fast(&pair.one);
    talk.rounds(ROUNDS);
    was_fast(&pair.one, before, 200);
    let [client, server] = talk.ports();
    let epochs = pair.one.agent().map(epoch);
    pair.one.exec(&how.begin(pair.pod1.port()));
    if let (Some(agent), Some(before), true) = (pair.one.agent(), epochs, ends_proofs(setup)) {
        eventually("all proofs are ended", SOON, || epoch(agent) > before);
    }
    let captures = [(&pair.one, &pair.pod1), (&pair.two, &pair.pod2)].map(|(daemon, pod)| {
        let filter = format!("udp and dst host {}", pod.address());
        Capture::inside(daemon.node(), pod.netns(), "eth0", &filter)
    });
    talk.both_send(100);
    for (capture, port) in captures.into_iter().zip([client, server]) {
        assert_eq!(capture.finish().len(), 0, "at port {port}");
    }
    pair.one.exec(&how.end(pair.pod1.port()));
    eventually("the flow goes on", SOON, || talk.round());
    eventually("and is fast", SOON, || {
        let before = fast(&pair.one);
        talk.rounds(ROUNDS);
        before.is_none_or(|(sent, received)| {
            let after = fast(&pair.one).unwrap();
            after.0 > sent + 200 && after.1 > received + 200
        })
    });
}

/// As a port of the bridge, what is no veth has no other end to which packets could be handed; nor is what is behind a veth
/// with both ends on the node a pod.
#[rstest]
fn whoever_is_behind_another_kind_of_port_talks_on(
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
    #[values(Guest::behind_another_bridge, Guest::behind_a_tap)] guest: fn(&AnyDaemon) -> Guest,
) {
    let pair = setup.pair();
    let guest = guest(&pair.one);
    if ends_proofs(setup) {
        unfit_if_ours(&pair.one, guest.port);
    }
    eventually("the guest is reached", SOON, || {
        guest.ping(pair.pod2.address()).count(1).lossless()
    });
    let udp = {
        let socket = udp::Server::on(&pair.pod2);
        let to = to(&pair.pod2, socket.port());
        talk::Udp::open(socket, &guest, to)
    };
    udp.rounds(ROUNDS);
    let listener = tcp::Server::on(&guest);
    let to = std::net::SocketAddrV4::new(guest.address(), listener.port());
    let mut tcp = talk::Tcp::open(&listener, &pair.pod2, to);
    tcp.rounds(ROUNDS);
}

/// As CNI's bandwidth plugin does it for what a pod receives.
#[rstest]
fn a_queueing_discipline_at_a_pod_s_port_sees_every_packet(
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
    #[values(false, true)] later: bool,
) {
    let pair = setup.pair();
    let (talk, _) = shape(&pair, setup, later, |pair| {
        let port = pair.pod1.port();
        let tbf = "root tbf rate 1gbit burst 1mb latency 400ms";
        pair.one.exec(&format!("tc qdisc add dev {port} {tbf}"));
    });
    let before = shaped(&pair.one, &pair.pod1);
    talk.rounds(ROUNDS);
    let seen = shaped(&pair.one, &pair.pod1) - before;
    assert!(seen >= ROUNDS as u64, "{seen} of {ROUNDS}");
}

/// And for what it sends, with filters on the way in.
#[rstest]
fn filters_at_a_pod_s_port_see_every_packet(
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
    #[values(false, true)] later: bool,
) {
    let pair = setup.pair();
    let (talk, device) = shape(&pair, setup, later, |pair| {
        let port = pair.pod1.port();
        let filter = "protocol ip prio 5 u32 match u32 0 0 action mirred egress mirror dev ifb9";
        for line in [
            "ip link add ifb9 type veth peer name ifb8".to_owned(),
            "ip link set ifb9 up".to_owned(),
            "ip link set ifb8 up".to_owned(),
            format!("tc qdisc add dev {port} ingress"),
            format!("tc filter add dev {port} parent ffff: {filter}"),
        ] {
            pair.one.exec(&line);
        }
    });
    assert_eq!(device, pair.pod1.port());
    let capture = Capture::start(
        pair.one.node(),
        "ifb8",
        &format!("udp and src host {}", pair.pod1.address()),
    );
    talk.rounds(ROUNDS);
    capture.packets(ROUNDS);
}

/// Before the flow begins, or while it is fast.
fn shape(
    pair: &Pair<AnyDaemon>,
    setup: Setup,
    later: bool,
    put: impl FnOnce(&Pair<AnyDaemon>),
) -> (talk::Udp, String) {
    let port = pair.pod1.port().to_owned();
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    if later {
        let before = fast(&pair.one);
        talk.rounds(ROUNDS);
        was_fast(&pair.one, before, 200);
    }
    let epochs = pair.one.agent().map(epoch);
    put(pair);
    if ends_proofs(setup) {
        unfit_if_ours(&pair.one, &port);
        if let (Some(agent), Some(before)) = (pair.one.agent(), epochs) {
            eventually("all proofs are ended", SOON, || epoch(agent) > before);
        }
    }
    if !later {
        talk.rounds(ROUNDS);
    }
    (talk, port)
}
