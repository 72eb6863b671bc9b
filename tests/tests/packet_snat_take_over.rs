//! A port is taken over from a flow that is over by one CPU alone. (What could come between is tried step by step in
//! `flannel-common/tests/snat_model`.)

#![cfg(test)]

use flannel_common::program::Program::{SnatOpen, UplinkTx};
use flannel_common::reason::Reason;
use flannel_tests::packet::outside::{OTHER_POD, Plain, US};
use flannel_tests::packet::{Node, SHOT};

#[test]
fn who_finds_another_at_it_keeps_off() {
    let mut node = Node {
        snat_ports: (50_000, 50_000),
        ..Node::default()
    }
    .load_snat();
    let old = Plain::default();
    let new = old.from(OTHER_POD, 40_000);
    node.leaves(&old.udp());
    node.age_snat(31);
    let (out, back) = node.snat_halves();
    node.holds_snat(&back);
    assert_eq!(node.run(UplinkTx, &new.udp()).action, SHOT);
    assert_eq!(node.count(SnatOpen, Reason::SnatExhausted).packets, 1);
    assert_eq!(node.snat_halves(), (out, back), "nothing was removed");
    // Another remote end is not concerned.
    let elsewhere = Plain { dport: 80, ..new };
    assert_eq!(node.leaves(&elsewhere.udp()), (US, 50_000));
    node.lets_go_of_snat(&back);
    assert_eq!(node.leaves(&new.udp()), (US, 50_000));
    // It has let go itself.
    node.age_snat(31);
    assert_eq!(node.leaves(&old.udp()), (US, 50_000));
}
