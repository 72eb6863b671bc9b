//! A device with several addresses, packet by packet. (A test run's device leads nowhere: the next hop is the destination.)

#![cfg(test)]

use flannel_common::Ipv4;
use flannel_common::program::Program::{OverlaySnatRx, UplinkSnatRx, UplinkTx};
use flannel_tests::packet::outside::{
    ACK, IP, POD, Plain, REMOTE_POD, SERVER, SYN, SYN_ACK, US, fragments, reassemble, source,
};
use flannel_tests::packet::{Fixture, Node, UNSPEC};
use rstest::rstest;

/// The node's address in the server's subnet.
const NEAR: Ipv4 = [198, 51, 100, 11];
const FAR: Ipv4 = [9, 9, 9, 9];

fn node() -> Fixture {
    let mut node = Node::default().load_snat();
    node.lends(&[(US, 24), (NEAR, 24)]);
    node
}

fn to(dst: Ipv4, sport: u16) -> Plain {
    Plain {
        sport,
        ..Plain::between(POD, dst)
    }
}

#[rstest]
#[case::near(SERVER, NEAR)]
#[case::far(FAR, US)]
#[case::in_the_first_subnet([192, 168, 0, 77], US)]
fn a_flow_leaves_as_who_fits_and_its_replies_come_back(#[case] dst: Ipv4, #[case] seen: Ipv4) {
    let mut node = node();
    let packet = to(dst, 50_000);
    assert_eq!(node.leaves(&packet.tcp(SYN)), (seen, 50_000));
    let answer = packet.from(seen, 50_000).answer();
    for flags in [SYN_ACK, ACK] {
        let back = node.run(UplinkSnatRx, &answer.tcp(flags));
        assert_eq!(back.packet, packet.answer().tcp(flags));
        assert_eq!(node.leaves(&packet.tcp(ACK)), (seen, 50_000));
    }
    // Only there: nothing left as the other, and through the tunnel comes nothing for it.
    let other = if seen == US { NEAR } else { US };
    let stray = packet.from(other, 50_000).answer().tcp(ACK);
    assert_eq!(node.run(UplinkSnatRx, &stray).packet, stray);
    let stray = answer.tcp(ACK);
    assert_eq!(node.run(OverlaySnatRx, &stray).packet, stray);
}

/// A first address that the uplink's is not: `--iface` with a secondary address.
#[test]
fn the_first_counts_and_not_the_uplinks() {
    const FIRST: Ipv4 = [192, 168, 0, 9];
    let mut node = Node::default().load_snat();
    let packet = to(FAR, 50_000);
    assert_eq!(node.leaves(&packet.udp()), (US, 50_000), "nobody knows yet");
    node.lends(&[(FIRST, 24)]);
    // What runs goes on, and is found.
    assert_eq!(node.leaves(&packet.udp()), (US, 50_000));
    let other = to(FAR, 50_001);
    assert_eq!(node.leaves(&other.udp()), (FIRST, 50_000));
    for (packet, seen) in [(packet, US), (other, FIRST)] {
        let answer = packet.from(seen, 50_000).answer();
        let back = node.run(UplinkSnatRx, &answer.udp());
        assert_eq!(back.packet, packet.answer().udp());
    }
}

#[rstest]
fn an_address_that_goes_takes_its_flows_along(
    #[values(Plain::udp, Plain::ping)] make: fn(Plain) -> Vec<u8>,
) {
    let mut node = node();
    let [near, far] = [to(SERVER, 50_000), to(FAR, 50_000)];
    assert_eq!(source(&node.run(UplinkTx, &make(near)).packet).0, NEAR);
    assert_eq!(source(&node.run(UplinkTx, &make(far)).packet).0, US);
    assert_eq!(node.snat_entries().len(), 4);
    node.lends(&[(US, 24)]);
    assert_eq!(source(&node.run(UplinkTx, &make(near)).packet).0, US);
    assert_eq!(source(&node.run(UplinkTx, &make(far)).packet).0, US);
    assert_eq!(
        node.snat_entries().len(),
        4,
        "no half of the old flow is left"
    );
    // It comes back: what began meanwhile stays as it is.
    node.lends(&[(US, 24), (NEAR, 24)]);
    assert_eq!(source(&node.run(UplinkTx, &make(near)).packet).0, US);
}

/// Of another device than the one it left by, too.
#[test]
fn routing_need_not_be_symmetric() {
    let elsewhere = Node {
        uplink_index: 99,
        ..Node::default()
    };
    let mut node = elsewhere.load_snat();
    node.lends(&[([203, 0, 113, 7], 24), (NEAR, 24)]);
    let packet = to(SERVER, 50_000);
    assert_eq!(node.leaves(&packet.tcp(SYN)), (NEAR, 50_000));
    node.lent_elsewhere();
    let answer = packet.from(NEAR, 50_000).answer();
    let back = node.run(UplinkSnatRx, &answer.tcp(SYN_ACK));
    assert_eq!(back.packet, packet.answer().tcp(SYN_ACK));
}

/// The node's own packets, from whatever address: no pod gets their port, and they keep it.
#[rstest]
fn no_pod_leaves_under_a_port_of_the_node(#[values(US, NEAR)] own: Ipv4) {
    let mut node = Node {
        snat_ports: (50_000, 50_007),
        ..Node::default()
    }
    .load_snat();
    node.lends(&[(US, 24), (NEAR, 24)]);
    let dst = if own == NEAR { SERVER } else { FAR };
    let nodes = to(dst, 50_000).from(own, 50_000);
    assert_eq!(node.run(UplinkTx, &nodes.udp()).packet, nodes.udp());
    let (seen, port) = node.leaves(&to(dst, 50_000).udp());
    assert_eq!(seen, own);
    assert_ne!(port, 50_000);
    // And the other way round: the node is given another port under the same address.
    let pods = to(dst, 50_009);
    let (seen, taken) = node.leaves(&pods.udp());
    assert_eq!(seen, own);
    let clash = node.run(UplinkTx, &pods.from(own, taken).udp());
    let (seen, port) = source(&clash.packet);
    assert_eq!(seen, own);
    assert_ne!(port, taken);
    let answer = pods.from(own, port).answer().udp();
    let back = node.run(UplinkSnatRx, &answer);
    assert_eq!(back.packet, pods.from(own, taken).answer().udp());
}

/// Row 6: whoever is not the device leaves as the device.
#[test]
fn an_outsider_leaves_as_who_fits() {
    let mut node = Node::default().load_snat();
    node.lends(&[(US, 24), ([10, 244, 2, 1], 24)]);
    let packet = Plain {
        sport: 50_000,
        ..Plain::between(SERVER, REMOTE_POD)
    };
    assert_eq!(node.leaves(&packet.tcp(SYN)), ([10, 244, 2, 1], 50_000));
}

#[rstest]
#[case::in_order([0, 1, 2])]
#[case::first_last([2, 1, 0])]
fn all_fragments_leave_as_one(#[case] order: [usize; 3], #[values(SERVER, FAR)] dst: Ipv4) {
    let mut node = node();
    let big = Plain {
        payload: 1000,
        ..to(dst, 50_000)
    };
    let seen = if dst == SERVER { NEAR } else { US };
    let parts = fragments(&big.udp(), 400);
    let mut out: Vec<_> = order
        .iter()
        .map(|nth| {
            let out = node.run(UplinkTx, &parts[*nth]);
            assert_eq!(out.action, UNSPEC);
            out.packet
        })
        .collect();
    out.sort_by_key(|f| u16::from_be_bytes([f[IP + 6], f[IP + 7]]) & 0x1fff);
    assert_eq!(reassemble(&out), big.from(seen, 50_000).udp());
}

/// The flow began under another address than would be chosen now: so do its followers.
#[test]
fn followers_leave_as_their_first() {
    let mut node = Node::default().load_snat();
    let big = Plain {
        payload: 1000,
        ..to(SERVER, 50_000)
    };
    node.leaves(&to(SERVER, 50_000).udp());
    node.lends(&[(US, 24), (NEAR, 24)]);
    for part in fragments(&big.udp(), 400) {
        let out = node.run(UplinkTx, &part);
        assert_eq!(source_address(&out.packet), US);
    }
}

fn source_address(packet: &[u8]) -> [u8; 4] {
    packet[IP + 12..IP + 16].try_into().unwrap()
}

/// A pod's error about what came leaves as whom the packet was for.
#[rstest]
fn errors_leave_as_the_flow_does(#[values(SERVER, FAR)] dst: Ipv4) {
    let mut node = node();
    let packet = to(dst, 50_000);
    let (seen, _) = node.leaves(&packet.udp());
    let answer = packet.from(seen, 50_000).answer();
    let delivered = node.run(UplinkSnatRx, &answer.udp()).packet;
    let error = Plain::between(POD, dst).error(3, 3, &delivered, 28);
    let out = node.run(UplinkTx, &error);
    assert_eq!(
        out.packet,
        Plain::between(seen, dst).error(3, 3, &answer.udp(), 28)
    );
    // And what is said about a packet of the pod finds it.
    let left = packet.from(seen, 50_000).udp();
    let error = Plain::between([9, 9, 9, 1], seen).error(11, 0, &left, 28);
    let back = node.run(UplinkSnatRx, &error);
    assert_eq!(
        back.packet,
        Plain::between([9, 9, 9, 1], POD).error(11, 0, &packet.udp(), 28)
    );
}
