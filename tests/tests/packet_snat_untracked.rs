//! Errors, resets and answers of flows that were never translated: they go as they are to whoever knows the pods anyway,
//! and to nobody else.

use flannel_common::program::Program;
use flannel_common::program::Program::{OverlaySnatRx, OverlaySnatTx, UplinkSnatRx, UplinkTx};
use flannel_tests::packet::outside::{
    ACK, IP, L4, OTHER_POD, POD, Plain, REMOTE_POD, ROUTER, RST, SERVER, SYN, SYN_ACK, US,
};
use flannel_tests::packet::{Fixture, Node, SHOT, UNSPEC};
use rstest::rstest;

/// The address of flannel.<VNI>.
const OVERLAY: [u8; 4] = Node::SUBNET;
const PEER: [u8; 4] = Node::PEER_IP;
const PEER_OVERLAY: [u8; 4] = Node::PEER_SUBNET;
/// Host and port unreachable, fragmentation needed, prohibited, time exceeded, parameter problem.
const ERRORS: [(u8, u8); 6] = [(3, 1), (3, 3), (3, 4), (3, 13), (11, 0), (12, 0)];

/// Runs a packet that must come out as it went in.
#[track_caller]
fn untouched(node: &mut Fixture, program: Program, packet: &[u8]) {
    let out = node.run(program, packet);
    assert_eq!(
        (out.action, out.packet.as_slice()),
        (UNSPEC, packet),
        "{}",
        program.name()
    );
}

fn kinds(about: Plain) -> [Vec<u8>; 5] {
    [
        about.tcp(SYN),
        about.udp(),
        about.ping(),
        about.other(132),
        about.other(47),
    ]
}

/// What a node says into the tunnel about another node's packet to its pod, to itself, or to nobody.
#[rstest]
fn the_nodes_errors_enter_the_tunnel(
    #[values(OVERLAY, [10, 244, 1, 1], US, POD)] from: [u8; 4],
    #[values(
        (REMOTE_POD, POD),
        (REMOTE_POD, [10, 244, 1, 200]),
        (REMOTE_POD, OVERLAY),
        (PEER_OVERLAY, POD),
        (REMOTE_POD, US),
        (REMOTE_POD, SERVER)
    )]
    about: ([u8; 4], [u8; 4]),
) {
    let mut node = Node::default().load_snat();
    let (sender, target) = about;
    for packet in kinds(Plain::between(sender, target)) {
        for (kind, code) in ERRORS {
            let error = Plain::between(from, sender).error(kind, code, &packet, 1000);
            untouched(&mut node, OverlaySnatTx, &error);
            // On the same link: host-gw and DirectRouting.
            untouched(&mut node, UplinkTx, &error);
        }
    }
    assert!(node.snat_entries().is_empty(), "an error begins no flow");
}

/// And at the other end.
#[rstest]
fn a_peers_errors_arrive_as_they_were_sent(
    #[values(PEER_OVERLAY, [10, 244, 2, 1], PEER, REMOTE_POD)] from: [u8; 4],
    #[values((POD, REMOTE_POD), (OVERLAY, REMOTE_POD), (US, REMOTE_POD))] about: ([u8; 4], [u8; 4]),
) {
    let mut node = Node::default().load_snat();
    let (sender, target) = about;
    for packet in kinds(Plain::between(sender, target)) {
        let error = Plain::between(from, sender).error(3, 13, &packet, 1000);
        untouched(&mut node, OverlaySnatRx, &error);
        untouched(&mut node, UplinkSnatRx, &error);
    }
}

/// A REJECT rule resets in the name of whom it protects; and conntrack, to which such a packet may be invalid, is not asked.
#[rstest]
fn resets_and_answers_of_nobody_enter_the_tunnel(
    #[values(OVERLAY, [10, 244, 1, 1], US, POD, SERVER, REMOTE_POD)] from: [u8; 4],
    #[values(REMOTE_POD, PEER_OVERLAY)] to: [u8; 4],
) {
    let mut node = Node::default().load_snat();
    let packet = Plain::between(from, to);
    let mut solicitation = packet.ping();
    solicitation[L4] = 10;
    for packet in [
        packet.tcp(RST),
        packet.tcp(RST | ACK),
        packet.tcp(SYN_ACK),
        packet.pong(),
        solicitation,
    ] {
        untouched(&mut node, OverlaySnatTx, &packet);
        untouched(&mut node, UplinkTx, &packet);
    }
}

/// A router outside speaks to another node's pod by way of this one, about a flow that went another way.
#[test]
fn an_error_in_transit_to_another_nodes_pod_is_untouched() {
    let mut node = Node::default().load_snat();
    let sent = Plain::between(REMOTE_POD, SERVER).udp();
    let error = Plain::between(ROUTER, REMOTE_POD).error(11, 0, &sent, 1000);
    untouched(&mut node, UplinkSnatRx, &error);
    untouched(&mut node, OverlaySnatTx, &error);
}

/// Exempt destinations know the pods: whatever a pod says there, it says under its own address.
#[test]
fn what_is_exempt_keeps_its_source_without_a_flow() {
    let mut node = Node::default().load_snat();
    node.exempt([198, 51, 100, 0], 24);
    let came = Plain::between(SERVER, POD).udp();
    let packet = Plain::between(POD, SERVER);
    for packet in [
        packet.tcp(RST),
        packet.tcp(SYN_ACK),
        packet.pong(),
        packet.error(3, 3, &came, 1000),
        Plain::between(US, SERVER).error(3, 1, &came, 1000),
    ] {
        untouched(&mut node, UplinkTx, &packet);
    }
}

/// A connection to an exempt server that the pod gives up before a byte came.
#[test]
fn an_exempt_connection_is_reset() {
    let mut node = Node::default().load_snat();
    node.exempt([198, 51, 100, 0], 24);
    let flow = Plain::default();
    untouched(&mut node, UplinkTx, &flow.tcp(SYN));
    untouched(&mut node, UplinkSnatRx, &flow.answer().tcp(SYN_ACK));
    untouched(&mut node, UplinkTx, &flow.tcp(RST));
}

/// Of what the outside never saw a pod's address in, it does not learn it from an error.
#[rstest]
#[case::reset(Plain::between(POD, SERVER).tcp(RST))]
#[case::answer(Plain::between(POD, SERVER).tcp(SYN_ACK))]
#[case::echo(Plain::between(POD, SERVER).pong())]
#[case::error(Plain::between(POD, SERVER).error(3, 3, &Plain::between(SERVER, POD).udp(), 1000))]
#[case::the_nodes(Plain::between(US, SERVER).error(3, 1, &Plain::between(SERVER, POD).udp(), 1000))]
#[case::to_another_node(Plain::between(POD, PEER).tcp(RST))]
#[case::as_another_pod(Plain::between(OTHER_POD, SERVER).tcp(RST))]
fn to_the_outside_nothing_goes_without_a_flow(#[case] packet: Vec<u8>) {
    let mut node = Node::default().load_snat();
    assert_eq!(node.run(UplinkTx, &packet).action, SHOT);
}

/// What came in from outside was noted, and its refusal leaves, whoever refuses: the pod, the node, a rule for the pod.
#[rstest]
fn the_outside_hears_why_it_does_not_reach_a_pod(#[values(POD, US)] from: [u8; 4]) {
    let mut node = Node::default().load_snat();
    let knock = Plain::between(SERVER, POD);
    for packet in kinds(knock) {
        untouched(&mut node, UplinkSnatRx, &packet);
        let error = Plain::between(from, SERVER).error(3, 13, &packet, 1000);
        untouched(&mut node, UplinkTx, &error);
    }
    let mut refusal = knock.answer().tcp(RST | ACK);
    untouched(&mut node, UplinkTx, &refusal);
    // Its RST carries no ACK if the other's did.
    refusal = knock.answer().tcp(RST);
    untouched(&mut node, UplinkTx, &refusal);
}

/// Row 6, and the flow is known: the error goes back to the tunnel's address, with the packet as it came from there.
#[test]
fn an_error_about_a_flow_translated_into_the_tunnel_is_translated() {
    let mut node = Node::default().load_snat();
    let flow = Plain::between(SERVER, REMOTE_POD);
    let left = node.run(OverlaySnatTx, &flow.udp()).packet;
    let port = u16::from_be_bytes([left[L4], left[L4 + 1]]);
    let answer = flow.from(OVERLAY, port).answer().udp();
    let delivered = node.run(OverlaySnatRx, &answer).packet;
    assert_eq!(delivered[IP + 16..IP + 20], SERVER);
    for from in [OVERLAY, ROUTER] {
        let error = Plain::between(from, REMOTE_POD).error(3, 1, &delivered, 1000);
        let out = node.run(OverlaySnatTx, &error);
        let wanted = Plain::between(from, REMOTE_POD).error(3, 1, &answer, 1000);
        assert_eq!((out.action, out.packet), (UNSPEC, wanted));
    }
}
