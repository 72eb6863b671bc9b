//! What the SNAT table remembers of a flow: both halves, its state, and connections that came in.

use flannel_common::program::Program::{UplinkSnatRx, UplinkTx};
use flannel_common::snat::{Entry, KIND_LEAVE, KIND_OWN, KIND_PAIR, Key, WAY_IN, WAY_OUT};
use flannel_tests::packet::line::{Line, Side};
use flannel_tests::packet::outside::{
    ACK, FIN_ACK, OTHER_POD, POD, Plain, RST, SERVER, SYN, SYN_ACK, US,
};
use flannel_tests::packet::{Fixture, Node};
use rstest::rstest;

/// The LRU knows nothing of pairs: either half brings back the other.
#[test]
fn a_lost_half_is_mended_by_the_other() {
    let mut node = Node::default().load_snat();
    let flow = Plain::default();
    let (_, port) = node.leaves(&flow.udp());
    let before = node.snat_entries();
    let (out_half, in_half) = node.snat_halves();

    node.evict_snat(&in_half);
    assert_eq!(node.leaves(&flow.udp()), (US, port));
    let keys = |entries: &[(Key, Entry)]| entries.iter().map(|e| e.0).collect::<Vec<_>>();
    assert_eq!(keys(&node.snat_entries()), keys(&before));

    node.evict_snat(&out_half);
    let answer = flow.from(US, port).answer();
    assert_eq!(
        node.run(UplinkSnatRx, &answer.udp()).packet,
        flow.answer().udp()
    );
    assert_eq!(keys(&node.snat_entries()), keys(&before));
    assert_eq!(node.leaves(&flow.udp()), (US, port));
}

/// While one half was gone another flow took the port: the first gets a new one, and no packet crosses over.
#[test]
fn a_port_lost_to_another_flow_is_not_taken_back() {
    let mut node = Node {
        snat_ports: (50_000, 50_001),
        ..Node::default()
    }
    .load_snat();
    let first = Plain::default().from(POD, 50_000);
    let second = first.from(OTHER_POD, 50_000);
    let (_, lost) = node.leaves(&first.udp());
    let (_, in_half) = node.snat_halves();
    node.evict_snat(&in_half);
    // Until it comes across the port that was lost.
    while node.leaves(&second.udp()).1 != lost {
        for (key, _) in node.snat_entries() {
            if key.src == OTHER_POD || key.way == WAY_IN {
                node.evict_snat(&key);
            }
        }
    }

    let (_, port) = node.leaves(&first.udp());
    assert_ne!(port, lost);
    for (flow, port) in [(first, port), (second, lost)] {
        let answer = flow.from(US, port).answer();
        assert_eq!(
            node.run(UplinkSnatRx, &answer.udp()).packet,
            flow.answer().udp()
        );
    }
}

#[test]
fn a_new_uplink_address_is_used_at_once() {
    let mut node = Node::default().load_snat();
    let flow = Plain::default();
    node.leaves(&flow.udp());
    // The programs of the new address find the entries of the old one.
    for (key, entry) in node.snat_entries() {
        node.evict_snat(&key);
        let old = [192, 168, 7, 7];
        match key.way {
            WAY_OUT => node.set_snat(&key, &Entry { addr: old, ..entry }),
            _ => node.set_snat(&Key { dst: old, ..key }, &entry),
        }
    }
    let (addr, port) = node.leaves(&flow.udp());
    assert_eq!(addr, US);
    let answer = flow.from(US, port).answer();
    assert_eq!(
        node.run(UplinkSnatRx, &answer.udp()).packet,
        flow.answer().udp()
    );
    assert_eq!(
        node.snat_entries().len(),
        2,
        "nothing of the old address is left"
    );
}

#[rstest]
#[case::half_open(&[(true, SYN)], 120)]
#[case::refused(&[(true, SYN), (false, 0x14)], 10)]
#[case::unconfirmed(&[(true, SYN), (false, SYN_ACK)], 60)]
#[case::established(&[(true, SYN), (false, SYN_ACK), (true, ACK)], 432_000)]
#[case::closing(&[(true, SYN), (false, SYN_ACK), (true, ACK), (true, FIN_ACK), (false, ACK)], 60)]
#[case::closing_unheard(&[(true, SYN), (false, SYN_ACK), (true, ACK), (true, FIN_ACK)], 432_000)]
#[case::closed_on_one_side(&[(true, SYN), (false, SYN_ACK), (true, FIN_ACK), (false, FIN_ACK)], 60)]
#[case::closed(&[(true, SYN), (false, SYN_ACK), (true, FIN_ACK), (false, FIN_ACK), (true, ACK)], 120)]
#[case::reset(&[(true, SYN), (false, SYN_ACK), (true, ACK), (true, RST | ACK)], 10)]
#[case::anew(&[(true, SYN), (false, SYN_ACK), (true, FIN_ACK), (false, FIN_ACK), (true, SYN)], 120)]
fn a_tcp_flow_lives_as_long_as_conntrack_has_it(
    #[case] packets: &[(bool, u8)],
    #[case] seconds: u64,
) {
    let mut node = Node::default().load_snat();
    let flow = Plain::default().from(POD, 50_000);
    let answer = flow.from(US, 50_000).answer();
    let mut line = Line::default();
    for (outward, flags) in packets {
        match outward {
            true => node.run(UplinkTx, &line.tcp(Side::Out, flow, *flags)),
            false => node.run(UplinkSnatRx, &line.tcp(Side::In, answer, *flags)),
        };
    }
    assert_eq!(node.snat_lifetime(), seconds);
}

#[test]
fn a_noted_connection_lives_as_long_as_conntrack_has_it() {
    let mut node = Node::default().load_snat();
    let question = Plain::default().answer();
    let mut line = Line::default();
    let mut send = |node: &mut Fixture, outward: bool, flags: u8| {
        match outward {
            true => node.run(UplinkTx, &line.tcp(Side::Out, question.answer(), flags)),
            false => node.run(UplinkSnatRx, &line.tcp(Side::In, question, flags)),
        };
        node.snat_lifetime()
    };
    assert_eq!(send(&mut node, false, SYN), 120);
    assert_eq!(send(&mut node, true, SYN_ACK), 60);
    assert_eq!(send(&mut node, false, ACK), 432_000);
    assert_eq!(
        send(&mut node, true, FIN_ACK),
        300,
        "it waits: the other side has not heard it"
    );
    assert_eq!(send(&mut node, false, ACK), 60);
    assert_eq!(send(&mut node, false, RST | ACK), 10);
    assert_eq!(node.snat_entries().len(), 1);
}

/// A note that has outlived its time no longer lets a pod's packet out as it is.
#[test]
fn an_old_note_does_not_excuse_a_new_flow() {
    let mut node = Node::default().load_snat();
    let question = Plain::default().answer();
    node.run(UplinkSnatRx, &question.udp());
    assert_eq!(
        node.run(UplinkTx, &question.answer().udp()).packet,
        question.answer().udp()
    );
    node.age_snat(121);
    assert_eq!(node.leaves(&question.answer().udp()).0, US);
}

/// A pod spoke first on a connection that had come in and was forgotten: the other end sets it right.
#[test]
fn a_forgotten_connection_that_came_in_is_recognised() {
    let mut node = Node::default().load_snat();
    let question = Plain::default().answer();
    node.leaves(&question.answer().tcp(ACK));
    node.run(UplinkSnatRx, &question.tcp(ACK));
    let entries = node.snat_entries();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].1.kind, KIND_LEAVE);
    let answer = question.answer().tcp(ACK);
    assert_eq!(node.run(UplinkTx, &answer).packet, answer);
}

/// But nobody outside can make a pod's own flow leave under the pod's address.
#[rstest]
#[case::opened_by_the_pod(Plain::default().tcp(SYN), Plain::default().answer().tcp(ACK))]
#[case::udp(Plain::default().udp(), Plain::default().answer().udp())]
fn a_forged_answer_changes_nothing(#[case] packet: Vec<u8>, #[case] forged: Vec<u8>) {
    let mut node = Node::default().load_snat();
    let before = node.leaves(&packet);
    node.run(UplinkSnatRx, &forged);
    assert!(node.snat_entries().iter().all(|e| e.1.kind == KIND_PAIR));
    assert_eq!(node.leaves(&packet), before);
}

#[test]
fn the_table_names_its_entries() {
    let mut node = Node::default().load_snat();
    node.run(UplinkTx, &Plain::default().from(US, 50_000).udp());
    let entries = node.snat_entries();
    assert_eq!(entries.len(), 1);
    let (key, entry) = entries[0];
    assert_eq!((key.src, key.dst, key.way), (SERVER, US, WAY_IN));
    assert_eq!((entry.kind, entry.addr), (KIND_OWN, US));
}
