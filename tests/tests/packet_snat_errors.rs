//! ICMP errors about translated flows, both ways: outer and carried packet, every checksum.

use flannel_common::program::Program::{
    OverlaySnatRx, OverlaySnatTx, SnatOddRx, SnatOddTx, UplinkSnatRx, UplinkTx,
};
use flannel_common::reason::Reason;
use flannel_tests::packet::outside::{
    ACK, IP, POD, Plain, REMOTE_POD, ROUTER, SERVER, SYN, US, assert_checksums, source,
    with_options,
};
use flannel_tests::packet::{Fixture, Node, SHOT, UNSPEC};
use rstest::rstest;

type Make = fn(Plain) -> Vec<u8>;

const UNREACHABLE: (u8, u8) = (3, 1);
const PORT_UNREACHABLE: (u8, u8) = (3, 3);
const FRAGMENTATION_NEEDED: (u8, u8) = (3, 4);
const TIME_EXCEEDED: (u8, u8) = (11, 0);
const PARAMETER_PROBLEM: (u8, u8) = (12, 0);

/// A pod's packet as it left.
fn sent(node: &mut Fixture, packet: &[u8]) -> Vec<u8> {
    let out = node.run(UplinkTx, packet);
    assert_eq!(out.action, UNSPEC);
    out.packet
}

#[rstest]
fn the_pod_sees_the_error_as_if_it_had_sent_the_packet_itself(
    #[values(
        |p: Plain| p.tcp(SYN),
        Plain::udp,
        Plain::udp_without_checksum,
        Plain::ping,
        |p: Plain| p.other(132),
        |p: Plain| p.other(47)
    )]
    make: Make,
    #[values(
        (ROUTER, UNREACHABLE),
        (SERVER, PORT_UNREACHABLE),
        (ROUTER, FRAGMENTATION_NEEDED),
        (ROUTER, TIME_EXCEEDED),
        (SERVER, PARAMETER_PROBLEM)
    )]
    error: ([u8; 4], (u8, u8)),
) {
    let (from, (kind, code)) = error;
    let mut node = Node::default().load_snat();
    let packet = make(Plain::default());
    let left = sent(&mut node, &packet);
    // The eight bytes that must be there, up to TCP's checksum, a header, everything.
    for carried in [28, 36, 38, 40, 1000] {
        let arrived = Plain::between(from, US).error(kind, code, &left, carried);
        let out = node.run(UplinkSnatRx, &arrived);
        let wanted = Plain::between(from, POD).error(kind, code, &packet, carried);
        assert_eq!(
            (out.action, out.packet),
            (UNSPEC, wanted),
            "{carried} bytes"
        );
    }
    assert_eq!(node.counted(SnatOddRx), [(Reason::SnatError, 5)]);
}

/// As netfilter does with translated flows, whoever signs it and whatever it carries.
#[rstest]
fn a_redirect_reaches_neither_end_of_a_translated_flow(
    #[values(|p: Plain| p.tcp(SYN), Plain::udp, Plain::ping, |p: Plain| p.other(47))] make: Make,
    #[values(ROUTER, SERVER)] from: [u8; 4],
    #[values(0, 1, 2, 3)] code: u8,
) {
    let mut node = Node::default().load_snat();
    let left = sent(&mut node, &make(Plain::default()));
    let arrived = Plain::between(from, US).error(5, code, &left, 28);
    assert_eq!(node.run(UplinkSnatRx, &arrived).action, SHOT);
    assert_eq!(node.counted(SnatOddRx), [(Reason::SnatRedirect, 1)]);
}

/// Of a flow that nobody translated it says no lie, and is the node's to judge.
#[test]
fn a_redirect_about_the_nodes_own_packet_is_left_to_it() {
    let mut node = Node::default().load_snat();
    let own = Plain::between(US, SERVER).udp();
    let arrived = Plain::between(ROUTER, US).error(5, 1, &own, 28);
    let out = node.run(UplinkSnatRx, &arrived);
    assert_eq!((out.action, out.packet), (UNSPEC, arrived));
}

#[test]
fn a_pods_redirect_does_not_leave() {
    let mut node = Node::default().load_snat();
    let (_, port) = source(&sent(&mut node, &Plain::default().udp()));
    let came = Plain::default().from(US, port).answer().udp();
    let delivered = node.run(UplinkSnatRx, &came).packet;
    let redirect = Plain::between(POD, SERVER).error(5, 1, &delivered, 28);
    assert_eq!(node.run(UplinkTx, &redirect).action, SHOT);
    assert_eq!(node.counted(SnatOddTx), [(Reason::SnatRedirect, 1)]);
}

/// The pod refuses an answer that comes too late: port unreachable, about a packet the server sent.
#[rstest]
#[case::tcp(|p: Plain| p.tcp(SYN), |p: Plain| p.tcp(ACK))]
#[case::udp(Plain::udp, Plain::udp)]
#[case::udp_without_checksum(Plain::udp_without_checksum, Plain::udp_without_checksum)]
fn the_outside_sees_a_pods_error_as_the_nodes(#[case] ask: Make, #[case] answer: Make) {
    let mut node = Node::default().load_snat();
    let flow = Plain::default();
    let (_, port) = source(&sent(&mut node, &ask(flow)));
    let came = answer(flow.from(US, port).answer());
    let delivered = node.run(UplinkSnatRx, &came).packet;
    for carried in [28, 38, 1000] {
        let error = Plain::between(POD, SERVER).error(3, 3, &delivered, carried);
        let out = node.run(UplinkTx, &error);
        let wanted = Plain::between(US, SERVER).error(3, 3, &came, carried);
        assert_eq!(
            (out.action, out.packet),
            (UNSPEC, wanted),
            "{carried} bytes"
        );
        // The node itself may speak for the pod, and must not give its address away.
        let error = Plain::between(US, SERVER).error(3, 1, &delivered, carried);
        let out = node.run(UplinkTx, &error);
        let wanted = Plain::between(US, SERVER).error(3, 1, &came, carried);
        assert_eq!(
            (out.action, out.packet),
            (UNSPEC, wanted),
            "{carried} bytes"
        );
    }
}

/// By a preferred source that is no device's to lend (one of the loopback device's, another uplink's), or by a host behind the node.
#[test]
fn whoever_signs_an_error_the_pods_address_is_not_in_it() {
    let mut node = Node::default().load_snat();
    let (_, port) = source(&sent(&mut node, &Plain::default().udp()));
    let came = Plain::default().from(US, port).answer().udp();
    let delivered = node.run(UplinkSnatRx, &came).packet;
    for from in [[198, 51, 100, 9], [10, 99, 0, 1]] {
        let error = Plain::between(from, SERVER).error(3, 4, &delivered, 28);
        let out = node.run(UplinkTx, &error);
        let wanted = Plain::between(from, SERVER).error(3, 4, &came, 28);
        assert_eq!((out.action, out.packet), (UNSPEC, wanted));
    }
    // Nobody's flow is none of ours.
    let other = Plain::between(ROUTER, [198, 51, 100, 9]).udp();
    let error = Plain::between([198, 51, 100, 8], ROUTER).error(3, 4, &other, 28);
    let out = node.run(UplinkTx, &error);
    assert_eq!((out.action, out.packet), (UNSPEC, error));
}

/// An error is for who sent the packet inside. A pod would else read in one to a friend of its own outside under which port another pod's
/// flow leaves.
#[test]
fn an_error_to_somebody_else_tells_nothing() {
    let mut node = Node::default().load_snat();
    let left = sent(&mut node, &Plain::default().udp());
    let (_, port) = source(&left);
    let came = Plain::default().from(US, port).answer().udp();
    let delivered = node.run(UplinkSnatRx, &came).packet;
    for from in [POD, [10, 244, 1, 66]] {
        let error = Plain::between(from, ROUTER).error(3, 3, &delivered, 28);
        assert_eq!(node.run(UplinkTx, &error).action, SHOT);
    }
    assert_eq!(node.counted(SnatOddTx), [(Reason::SnatNoFlow, 2)]);
    let other = [192, 168, 0, 77];
    node.lends(&[(US, 0), (other, 0)]);
    let error = Plain::between(ROUTER, other).error(3, 1, &left, 28);
    let out = node.run(UplinkSnatRx, &error);
    assert_eq!((out.action, out.packet), (UNSPEC, error));
}

/// Of a connection that came in, the client knows the pod's own address.
#[test]
fn an_error_about_a_connection_that_came_in_is_the_pods_own() {
    let mut node = Node::default().load_snat();
    let question = Plain::default().answer().udp();
    node.run(UplinkSnatRx, &question);
    for from in [POD, US] {
        let error = Plain::between(from, SERVER).error(3, 3, &question, 1000);
        let out = node.run(UplinkTx, &error);
        assert_eq!((out.action, out.packet), (UNSPEC, error));
    }
}

#[rstest]
#[case::of_a_pod(POD, SHOT)]
#[case::of_the_node_about_a_pod(US, SHOT)]
fn an_error_that_no_flow_explains_does_not_leave(#[case] from: [u8; 4], #[case] action: i32) {
    let mut node = Node::default().load_snat();
    let unknown = Plain::default().answer().udp();
    let error = Plain::between(from, SERVER).error(3, 3, &unknown, 1000);
    assert_eq!(node.run(UplinkTx, &error).action, action);
    assert_eq!(node.counted(SnatOddTx), [(Reason::SnatNoFlow, 1)]);
}

/// The node's own errors, and errors about the node's own packets.
#[test]
fn what_concerns_the_node_alone_is_untouched() {
    let mut node = Node::default().load_snat();
    let about = Plain::default().from(SERVER, 443);
    let about = Plain { dst: US, ..about }.udp();
    let error = Plain::between(US, SERVER).error(3, 3, &about, 1000);
    assert_eq!(node.run(UplinkTx, &error).packet, error);

    let own = Plain::default().from(US, 50_000).udp();
    node.run(UplinkTx, &own);
    for about in [own, Plain::default().from(US, 40_000).udp()] {
        let error = Plain::between(ROUTER, US).error(11, 0, &about, 1000);
        let out = node.run(UplinkSnatRx, &error);
        assert_eq!((out.action, out.packet), (UNSPEC, error));
    }
}

#[test]
fn options_inside_and_outside() {
    let mut node = Node::default().load_snat();
    let packet = with_options(&Plain::default().udp());
    let left = node.run(UplinkTx, &packet).packet;
    let arrived = with_options(&Plain::between(ROUTER, US).error(11, 0, &left, 1000));
    let out = node.run(UplinkSnatRx, &arrived);
    let wanted = with_options(&Plain::between(ROUTER, POD).error(11, 0, &packet, 1000));
    assert_eq!(out.packet, wanted);
}

/// Row 6: an error on the way back through the tunnel.
#[test]
fn errors_come_back_through_the_overlay() {
    let mut node = Node::default().load_snat();
    let packet = Plain {
        src: SERVER,
        dst: REMOTE_POD,
        ..Plain::default()
    };
    let left = node.run(OverlaySnatTx, &packet.udp()).packet;
    let overlay = Node::SUBNET;
    let arrived = Plain::between(REMOTE_POD, overlay).error(3, 3, &left, 1000);
    let out = node.run(OverlaySnatRx, &arrived);
    let wanted = Plain::between(REMOTE_POD, SERVER).error(3, 3, &packet.udp(), 1000);
    assert_eq!(out.packet, wanted);
}

/// No error about an error, none about a later fragment (RFC 1122), none too short to tell.
#[test]
fn what_cannot_be_translated_is_left_to_the_node() {
    let mut node = Node::default().load_snat();
    let left = sent(&mut node, &Plain::default().udp());
    let about_an_error = Plain::between(US, SERVER).error(3, 3, &left, 28);
    let mut later_fragment = left.clone();
    later_fragment[IP + 7] = 1;
    let mut not_ipv4 = left.clone();
    not_ipv4[IP] = 0x65;
    for (about, carried) in [
        (&about_an_error, 1000),
        (&later_fragment, 1000),
        (&not_ipv4, 1000),
        (&left, 27),
        (&left, 20),
        (&left, 19),
        (&left, 0),
    ] {
        let arrived = Plain::between(ROUTER, US).error(11, 0, about, carried);
        let out = node.run(UplinkSnatRx, &arrived);
        assert_eq!((out.action, out.packet), (UNSPEC, arrived), "{carried}");
    }
}

#[test]
fn a_pods_error_that_is_too_short_does_not_leave() {
    let mut node = Node::default().load_snat();
    let flow = Plain::default();
    let (_, port) = source(&sent(&mut node, &flow.udp()));
    let came = flow.from(US, port).answer().udp();
    let delivered = node.run(UplinkSnatRx, &came).packet;
    for carried in 0..28 {
        let error = Plain::between(POD, SERVER).error(3, 3, &delivered, carried);
        assert_eq!(node.run(UplinkTx, &error).action, SHOT, "{carried}");
    }
}

#[test]
fn checksums_hold_for_any_port_and_length() {
    let mut node = Node {
        snat_ports: (49_152, 65_535),
        ..Node::default()
    }
    .load_snat();
    for sport in (1..60_000).step_by(997) {
        let flow = Plain {
            sport,
            payload: usize::from(sport % 50),
            ..Plain::default()
        };
        let left = sent(&mut node, &flow.udp());
        let arrived = Plain::between(ROUTER, US).error(11, 0, &left, 28 + usize::from(sport % 40));
        let out = node.run(UplinkSnatRx, &arrived).packet;
        assert_checksums(&out);
        assert_eq!(out[IP + 16..IP + 20], POD);
    }
}
