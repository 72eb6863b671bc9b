//! Flannel's masquerade table, row by row, through the programs at the hooks.

use flannel_common::Ipv4;
use flannel_common::program::Program::{
    OverlaySnatRx, OverlaySnatTx, SnatOddRx, SnatOddTx, SnatOpen, UplinkSnatRx, UplinkTx,
};
use flannel_common::reason::Reason;
use flannel_tests::packet::outside::{
    ACK, OTHER_POD, POD, Plain, REMOTE_POD, SERVER, SYN, SYN_ACK, US, source,
};
use flannel_tests::packet::{Inner, Node, Run, SHOT, UNSPEC, vxlan};
use rstest::rstest;

/// The address of flannel.<VNI>.
const OVERLAY: [u8; 4] = Node::SUBNET;
const PEER: [u8; 4] = Node::PEER_IP;

fn to(src: [u8; 4], dst: [u8; 4]) -> Plain {
    Plain::between(src, dst)
}

#[rstest]
#[case::row_1_kube_proxy_masquerades(to(POD, SERVER), 0x4000)]
#[case::row_1_among_other_bits(to(POD, SERVER), 0xc000)]
#[case::row_2_own_pod_to_other_nodes_pod(to(POD, REMOTE_POD), 0)]
#[case::row_2_own_pod_to_own_pod(to(POD, OTHER_POD), 0)]
#[case::row_3_other_nodes_pod_to_own_pod(to(REMOTE_POD, POD), 0)]
#[case::row_4_outside_to_own_pod(to(SERVER, POD), 0)]
#[case::row_4_node_to_own_pod(to(US, POD), 0)]
#[case::multicast(to(POD, [224, 0, 0, 251]), 0)]
#[case::multicast_end(to(POD, [239, 255, 255, 250]), 0)]
#[case::the_nodes_own(to(US, SERVER), 0)]
#[case::nobody_of_the_cluster(to([172, 17, 0, 2], [9, 9, 9, 9]), 0)]
fn keeps_its_source(#[case] packet: Plain, #[case] mark: u32) {
    let mut node = Node::default().load_snat();
    for bytes in [
        packet.tcp(SYN),
        packet.tcp(ACK),
        packet.udp(),
        packet.ping(),
    ] {
        let run = Run {
            packet: &bytes,
            mark,
            ..Run::default()
        };
        let out = node.run_with(UplinkTx, &run);
        assert_eq!((out.action, &out.packet), (UNSPEC, &bytes));
        assert_eq!(out.mark, mark);
    }
    assert_eq!(node.counted(UplinkTx), []);
}

/// Rows 5 and 6 at the uplink: the source becomes the uplink's address, and the reply finds its way.
#[rstest]
#[case::row_5_own_pod_to_outside(to(POD, SERVER))]
#[case::row_5_own_pod_to_another_node(to(POD, PEER))]
#[case::row_5_other_nodes_pod_to_outside(to(REMOTE_POD, SERVER))]
#[case::row_5_pod_to_pod_in_transit(to(REMOTE_POD, [10, 244, 3, 1]))]
#[case::row_5_link_local(to(POD, [169, 254, 169, 254]))]
#[case::row_5_other_marks(to(POD, SERVER))]
#[case::row_6_outside_to_other_nodes_pod(to(SERVER, REMOTE_POD))]
fn leaves_as_the_node_and_comes_back(#[case] packet: Plain) {
    let mut node = Node::default().load_snat();

    let out = node.run(UplinkTx, &packet.tcp(SYN));

    let (addr, port) = source(&out.packet);
    assert_eq!((out.action, addr), (UNSPEC, US));
    assert!((49152..=65535).contains(&port), "{port}");
    assert_eq!(out.packet, packet.from(US, port).tcp(SYN), "to the byte");
    let answer = packet.from(US, port).answer();
    let back = node.run(UplinkSnatRx, &answer.tcp(SYN_ACK));
    assert_eq!(back.action, UNSPEC);
    assert_eq!(back.packet, packet.answer().tcp(SYN_ACK), "to the byte");
    assert_eq!(node.counted(SnatOpen), [(Reason::Snat, 1)]);
    assert_eq!(node.counted(UplinkSnatRx), [(Reason::SnatReply, 1)]);
}

/// iptables masquerades under an address of the device that the packet leaves by.
#[test]
fn another_device_than_the_uplink_has_its_own_address() {
    const THERE: [u8; 4] = [203, 0, 113, 7];
    let elsewhere = Node {
        uplink_index: 99,
        ..Node::default()
    };
    let packet = Plain {
        sport: 50_000,
        ..to(POD, SERVER)
    };
    let mut node = elsewhere.load_snat();
    node.outlet(THERE);
    assert_eq!(node.leaves(&packet.tcp(SYN)), (THERE, 50_000));
    let answer = packet.from(THERE, 50_000).answer();
    let back = node.run(UplinkSnatRx, &answer.tcp(SYN_ACK));
    assert_eq!(back.packet, packet.answer().tcp(SYN_ACK), "to the byte");
    let at_uplink = packet.from(US, 50_000).answer().tcp(SYN_ACK);
    let stray = node.run(UplinkSnatRx, &at_uplink);
    assert_eq!(stray.packet, at_uplink, "no flow left as the uplink");

    let mut node = elsewhere.load_snat();
    assert_eq!(
        node.leaves(&packet.tcp(SYN)),
        (US, 50_000),
        "an unknown device lets nothing out under a pod's address"
    );
}

/// Row 6 where it matters: into the tunnel, as the address of `flannel.<VNI>`, so that the reply comes through it.
#[rstest]
#[case::outside(SERVER)]
#[case::node_with_another_source(US)]
fn enters_the_overlay_as_its_device(#[case] from: [u8; 4]) {
    let packet = to(from, REMOTE_POD);
    let mut node = Node::default().load_snat();

    let out = node.run(OverlaySnatTx, &packet.tcp(SYN));

    let (addr, port) = source(&out.packet);
    assert_eq!(addr, OVERLAY);
    assert_eq!(out.packet, packet.from(OVERLAY, port).tcp(SYN));
    let answer = packet.from(OVERLAY, port).answer();
    let back = node.run(OverlaySnatRx, &answer.tcp(SYN_ACK));
    assert_eq!(back.packet, packet.answer().tcp(SYN_ACK));
    // The answer goes on to the outside: it must not leave as the node.
    if from == SERVER {
        node.run(UplinkSnatRx, &packet.tcp(SYN));
        let out = node.run(UplinkTx, &packet.answer().tcp(SYN_ACK));
        assert_eq!(out.packet, packet.answer().tcp(SYN_ACK));
    }
}

#[rstest]
#[case::pod_to_pod(to(POD, REMOTE_POD))]
#[case::as_the_device_already(to(OVERLAY, REMOTE_POD))]
#[case::marked(to(SERVER, REMOTE_POD))]
fn enters_the_overlay_unchanged(#[case] packet: Plain) {
    let mut node = Node::default().load_snat();
    let bytes = packet.tcp(SYN);
    let run = Run {
        packet: &bytes,
        mark: if packet.src == SERVER { 0x4000 } else { 0 },
        ..Run::default()
    };
    let out = node.run_with(OverlaySnatTx, &run);
    assert_eq!((out.action, out.packet), (UNSPEC, bytes));
}

/// Row 4 and its way back: a connection that came in is answered under the pod's address.
#[rstest]
#[case::tcp(|p: Plain| p.tcp(SYN), |p: Plain| p.tcp(SYN_ACK))]
#[case::tcp_in_the_middle(|p: Plain| p.tcp(ACK), |p: Plain| p.tcp(ACK))]
#[case::udp(Plain::udp, Plain::udp)]
#[case::ping(Plain::ping, Plain::pong)]
#[case::gre(|p: Plain| p.other(47), |p: Plain| p.other(47))]
fn a_connection_that_came_in_is_answered_as_the_pod(
    #[case] ask: fn(Plain) -> Vec<u8>,
    #[case] answer: fn(Plain) -> Vec<u8>,
) {
    let mut node = Node::default().load_snat();
    let question = to(SERVER, POD);

    let came = node.run(UplinkSnatRx, &ask(question));
    assert_eq!((came.action, came.packet), (UNSPEC, ask(question)));
    let left = node.run(UplinkTx, &answer(question.answer()));

    assert_eq!(
        (left.action, left.packet),
        (UNSPEC, answer(question.answer()))
    );
    assert_eq!(node.counted(UplinkTx), [(Reason::SnatKept, 1)]);
}

/// Exempt nodes reach this one as pods; the replies leave through the tunnel and must not change either.
#[test]
fn a_pod_that_came_as_itself_is_answered_as_the_node() {
    let mut node = Node::default().load_snat();
    let question = to(REMOTE_POD, US);
    node.run(UplinkSnatRx, &question.tcp(SYN));
    let answer = question.answer().tcp(SYN_ACK);
    assert_eq!(node.run(OverlaySnatTx, &answer).packet, answer);
}

/// A SYN is no answer: the pod opens a connection of its own, from a port where one had come in.
#[test]
fn a_pods_own_connection_is_not_taken_for_an_answer() {
    let mut node = Node::default().load_snat();
    let question = to(SERVER, POD);
    node.run(UplinkSnatRx, &question.tcp(SYN));
    let out = node.run(UplinkTx, &question.answer().tcp(SYN));
    assert_eq!(source(&out.packet).0, US);
}

#[test]
fn exempt_destinations_see_the_pod() {
    let mut node = Node::default().load_snat();
    node.exempt([192, 168, 0, 0], 24);
    let exempt = to(POD, PEER).tcp(SYN);
    assert_eq!(node.run(UplinkTx, &exempt).packet, exempt);
    assert_eq!(node.counted(SnatOpen), [(Reason::SnatKept, 1)]);
    let out = node.run(UplinkTx, &to(POD, SERVER).tcp(SYN));
    assert_eq!(source(&out.packet).0, US, "others do not");
}

/// An exemption of the whole world does not break row 6, without which replies would miss this node.
#[test]
fn exemptions_are_for_pods_only() {
    let mut node = Node::default().load_snat();
    node.exempt([0, 0, 0, 0], 0);
    let out = node.run(OverlaySnatTx, &to(SERVER, REMOTE_POD).tcp(SYN));
    assert_eq!(source(&out.packet).0, OVERLAY);
}

/// All of the tunnel's packets come by; they cost one glance and are not even counted.
#[test]
fn the_tunnels_own_packets_are_left_alone() {
    let mut node = Node::default().load_snat();
    let mut packet = vxlan(&Inner::outbound().udp());
    packet[26..30].copy_from_slice(&US);
    packet[34..36].copy_from_slice(&50_000u16.to_be_bytes());
    let out = node.run(UplinkTx, &packet);
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
    assert_eq!(node.snat_entries(), []);
}

#[rstest]
#[case::arp([8, 6])]
#[case::ipv6([0x86, 0xdd])]
#[case::vlan([0x81, 0])]
fn what_is_not_ipv4_is_untouched(#[case] ethertype: [u8; 2]) {
    let mut node = Node::default().load_snat();
    let mut packet = Plain::default().tcp(SYN);
    packet[12..14].copy_from_slice(&ethertype);
    for hook in [UplinkTx, UplinkSnatRx, OverlaySnatTx, OverlaySnatRx] {
        assert_eq!(node.run(hook, &packet).packet, packet);
        assert_eq!(node.counted(hook), []);
    }
}

/// What no flow explains never leaves under a pod's address.
#[rstest]
#[case::reset(Plain::default().tcp(0x04))]
#[case::answer(Plain::default().tcp(SYN_ACK))]
#[case::no_flags(Plain::default().tcp(0))]
#[case::echo_reply(Plain::default().pong())]
#[case::router_solicitation({
    let mut packet = Plain::default().ping();
    packet[34] = 10;
    packet
})]
fn what_belongs_to_no_flow_is_dropped(#[case] packet: Vec<u8>) {
    let mut node = Node::default().load_snat();
    assert_eq!(node.run(UplinkTx, &packet).action, SHOT);
    let dropped = [SnatOpen, SnatOddTx].map(|step| node.count(step, Reason::SnatNoFlow).packets);
    assert_eq!(dropped.iter().sum::<u64>(), 1);
}

/// Everything that arrives for the node itself goes on as it came.
#[rstest]
#[case::outside_the_range(to(SERVER, US).tcp(SYN))]
#[case::inside_the_range(Plain { dport: 50_000, ..to(SERVER, US) }.tcp(SYN))]
#[case::udp(Plain { dport: 50_000, ..to(SERVER, US) }.udp())]
#[case::ping(to(SERVER, US).ping())]
#[case::pong(to(SERVER, US).pong())]
#[case::esp(to(SERVER, US).other(50))]
fn what_is_for_the_node_is_untouched(#[case] packet: Vec<u8>) {
    let mut node = Node::default().load_snat();
    let out = node.run(UplinkSnatRx, &packet);
    assert_eq!((out.action, out.packet), (UNSPEC, packet));
    assert_eq!(node.counted(UplinkSnatRx), []);
    assert_eq!(node.counted(SnatOddRx), []);
    assert_eq!(node.snat_entries(), []);
}

/// Who shares the device by macvlan sends from a MAC of its own, and what it sends is its own. Not so the pods of this node: their
/// packets are translated whatever MAC the device has got.
#[rstest]
#[case::a_pod_of_another_node(REMOTE_POD, false)]
#[case::a_pod_of_ours(POD, true)]
fn what_another_host_sends_by_the_device_is_left_alone(
    #[case] src: Ipv4,
    #[case] translated: bool,
) {
    let mut node = Node::default().load_snat();
    node.lends(&[(US, 24)]);
    let flow = Plain::default().from(src, 40_000);
    let packet = flow.udp();
    node.device_has_mac([2, 0, 0, 0, 0, 5]);
    assert_eq!(&packet[6..12], [2, 0, 0, 0, 0, 5]);
    let own = node.run(UplinkTx, &packet);
    assert_eq!((own.action, source(&own.packet).0), (UNSPEC, US));
    node.clear_snat();
    node.device_has_mac([2, 0, 0, 0, 0, 9]);
    let sent = node.run(UplinkTx, &packet);
    assert_eq!(
        (sent.action, source(&sent.packet).0 == US),
        (UNSPEC, translated)
    );
    // Nor is what belongs to no flow, as an error about one that came in.
    let error = flow.error(3, 3, &flow.answer().udp(), 8);
    let sent = node.run(UplinkTx, &error);
    assert_eq!(sent.action == UNSPEC && sent.packet == error, !translated);
}

/// No packet comes in under an address of the node's: a rule of the operator's has given it that one.
#[test]
fn what_a_rule_has_translated_is_not_translated_again() {
    let mut node = Node::default().load_snat();
    node.lends(&[(US, 24)]);
    let packet = Plain::between(US, REMOTE_POD).udp();
    let run = |came_by| Run {
        packet: &packet,
        came_by,
        ..Run::default()
    };
    let forwarded = node.run_with(OverlaySnatTx, &run(1));
    assert_eq!(forwarded.packet, packet);
    let own = node.run_with(OverlaySnatTx, &run(0));
    assert_ne!(own.packet, packet);
}
