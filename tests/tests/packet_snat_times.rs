//! The programs judge flows by the times that they are told, which are those of the node's conntrack.

#![cfg(test)]

use flannel_common::program::Program::{SnatOpen, SnatRoom, UplinkSnatRx, UplinkTx};
use flannel_common::reason::Reason;
use flannel_common::snat::Times;
use flannel_tests::packet::line::{Line, Side};
use flannel_tests::packet::outside::{ACK, FIN_ACK, OTHER_POD, POD, Plain, SYN, SYN_ACK, US};
use flannel_tests::packet::{Fixture, Node, SHOT, UNSPEC};
use rstest::rstest;

fn told(snat_times: Times) -> Fixture {
    Node {
        snat_ports: (50_000, 50_000),
        snat_times,
        ..Node::default()
    }
    .load_snat()
}

fn udp(udp: u32, udp_stream: u32) -> Times {
    Times {
        udp,
        udp_stream,
        ..Times::DEFAULT
    }
}

/// Of one port: another pod gets it once the flow that has it is over.
#[rstest]
#[case::usual(Times::DEFAULT, 30)]
#[case::lowered(udp(3, 120), 3)]
#[case::raised(udp(200, 120), 200)]
#[case::the_longest(udp(Times::MOST, 1), Times::MOST.into())]
fn a_port_is_kept_for_as_long_as_the_node_says(#[case] times: Times, #[case] seconds: u64) {
    let mut node = told(times);
    let old = Plain::default();
    let new = old.from(OTHER_POD, 40_000);
    node.leaves(&old.udp());
    assert_eq!(node.snat_lifetime_up_to(seconds + 1), seconds);
    if seconds > 1_000 {
        // The machine is younger.
        node.age_snat(60);
        assert_eq!(node.run(UplinkTx, &new.udp()).action, SHOT);
        return;
    }
    // A second that the test itself may take.
    node.age_snat(seconds - 2);
    assert_eq!(node.run(UplinkTx, &new.udp()).action, SHOT, "alive");
    assert_eq!(node.count(SnatOpen, Reason::SnatExhausted).packets, 1);
    node.age_snat(3);
    assert_eq!(node.leaves(&new.udp()), (US, 50_000));
}

/// A change counts from the next packet on, for those that are there as well.
#[test]
fn what_changes_changes_for_all() {
    let mut node = told(Times::DEFAULT);
    let old = Plain::default();
    let new = old.from(OTHER_POD, 40_000);
    node.leaves(&old.udp());
    node.age_snat(60);
    node.set_snat_times(&udp(600, 120));
    assert_eq!(node.run(UplinkTx, &new.udp()).action, SHOT);
    node.set_snat_times(&udp(5, 120));
    assert_eq!(node.leaves(&new.udp()), (US, 50_000));
}

/// A note of a connection that came in.
#[rstest]
#[case::lowered(udp(5, 120), 10, false)]
#[case::raised(udp(600, 120), 300, true)]
fn what_came_in_is_known_for_as_long_as_the_node_says(
    #[case] times: Times,
    #[case] age: u64,
    #[case] keeps: bool,
) {
    let mut node = told(times);
    let question = Plain::default().answer();
    let answer = question.answer().udp();
    node.run(UplinkSnatRx, &question.udp());
    assert_eq!(node.run(UplinkTx, &answer).packet, answer);
    node.age_snat(age);
    assert_eq!(node.run(UplinkTx, &answer).packet == answer, keeps);
}

/// kube-proxy raises that to an hour.
#[test]
fn a_connection_that_one_side_has_ended_lives_as_long_as_the_node_says() {
    let mut node = told(Times {
        tcp_close_wait: 3_600,
        tcp_time_wait: 7,
        ..Times::DEFAULT
    });
    let flow = Plain::default().from(POD, 50_000);
    let answer = flow.from(US, 50_000).answer();
    let mut line = Line::default();
    let mut send = |node: &mut Fixture, outward: bool, flags| {
        match outward {
            true => node.run(UplinkTx, &line.tcp(Side::Out, flow, flags)),
            false => node.run(UplinkSnatRx, &line.tcp(Side::In, answer, flags)),
        };
        node.snat_lifetime()
    };
    for (outward, flags) in [(true, SYN), (false, SYN_ACK), (true, ACK)] {
        send(&mut node, outward, flags);
    }
    send(&mut node, true, FIN_ACK);
    assert_eq!(send(&mut node, false, ACK), 3_600);
    send(&mut node, true, ACK);
    assert_eq!(
        send(&mut node, false, FIN_ACK),
        300,
        "the other side has not heard it"
    );
    assert_eq!(send(&mut node, true, ACK), 7);
}

/// However long silent flows may live: whoever floods ends its own.
#[test]
fn a_flood_of_what_lives_long_leaves_room_for_others() {
    const ENTRIES: u32 = 1_024;
    let mut node = Node {
        snat_ports: (50_000, 60_000),
        snat_entries: ENTRIES,
        snat_times: udp(1_000_000, 1_000_000),
        ..Node::default()
    }
    .load_snat();
    let kept = Plain::default().from(OTHER_POD, 40_000);
    let before = node.leaves(&kept.udp());
    for n in 0..3_000 {
        let flood = Plain::default().from(POD, 1_024 + n);
        assert_eq!(node.run(UplinkTx, &flood.udp()).action, UNSPEC, "{n}");
    }
    assert_eq!(node.leaves(&kept.udp()), before, "others' flows go on");
    assert_eq!(node.count(SnatRoom, Reason::SnatShare).packets, 0);
    let entries = node.snat_entries().len();
    assert!(entries <= ENTRIES as usize / 2, "{entries}");
}
