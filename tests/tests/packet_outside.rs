//! Out of the cluster past the stack, packet by packet: what proves a flow, what it may then skip.

#![cfg(test)]

use flannel_common::flow::{LIFETIME, POD as POD_OPENED, REFRESH};
use flannel_common::globals::{FAST_PATH_ALWAYS, FAST_PATH_OFF};
use flannel_common::outside::Way;
use flannel_common::program::Program::{
    OutsideRx, OutsideTx, PodTx, SnatOpen, UplinkSnatRx, UplinkTx,
};
use flannel_common::reason::Reason;
use flannel_tests::packet::outside::{
    ACK, FIN_ACK, POD, RST, SYN, SYN_ACK, US, assert_checksums, source,
};
use flannel_tests::packet::world::{GATEWAY, UPLINK, ask, here, key, reply, world};
use flannel_tests::packet::{Node, REDIRECT, SHOT, UNSPEC};
use rstest::rstest;

#[test]
fn udp_is_fast_each_way_on_its_own() {
    here(|_, world| {
        for _ in 0..3 {
            assert!(!world.is_fast_out(&ask().udp()));
            world.leaves(ask().udp());
        }
        assert_eq!(
            world.node.flows(),
            [],
            "what may be over soon takes no room"
        );
        world.lasts();
        // The first makes the entry, the second proves.
        for _ in 0..2 {
            assert!(!world.is_fast_out(&ask().udp()));
            world.leaves(ask().udp());
        }
        assert!(world.is_fast_out(&ask().udp()));
        assert!(!world.is_fast_back(&reply().udp()));
        world.back(&reply().udp());
        assert!(world.is_fast_back(&reply().udp()));
        assert_eq!(world.count(OutsideTx, Reason::Verified), 1);
        assert_eq!(world.count(OutsideRx, Reason::FastRx), 1);
        let flow = world.node.flow(&key(17)).unwrap();
        assert_eq!(Way::of(&flow.peer), Some(Way::new(UPLINK, GATEWAY, 576)));
    });
}

/// So a renewal of an answer waits for one of a question.
#[test]
fn the_pod_opened_it_though_an_answer_is_proven_first() {
    here(|_, world| {
        world.leaves(ask().udp());
        world.lasts();
        world.leaves(ask().udp());
        world.back(&reply().udp());
        let flow = world.node.flow(&key(17)).unwrap();
        assert!(flow.rx.verified != 0 && flow.tx.verified == 0);
        assert_eq!(flow.opener, POD_OPENED);
        world.out(&ask().udp());
        assert!(world.is_fast_out(&ask().udp()));
        world.age(17, REFRESH + 100);
        assert!(world.is_fast_back(&reply().udp()), "it waits");
        assert!(!world.is_fast_out(&ask().udp()));
    });
}

/// A proof holds for seconds: it would serve hardly any packet of theirs.
#[test]
fn rare_packets_make_no_entry() {
    here(|_, world| {
        world.out(&ask().udp());
        world.back(&reply().udp());
        for _ in 0..3 {
            world.lasts();
            world.node.age_snat(2);
            world.out(&ask().udp());
            world.back(&reply().udp());
        }
        assert_eq!(world.node.flows(), []);
        assert_eq!(world.node.counted(OutsideTx), []);
        world.out(&ask().udp());
        assert_eq!(world.node.flows().len(), 1, "one packet after the other");
    });
}

/// It takes the stack, and the next one is fast: the proof did not end.
#[test]
fn a_reply_after_a_pause_proves_nothing() {
    here(|_, world| {
        world.verified_udp();
        let before = world.node.flow(&key(17)).unwrap();
        world.node.age_snat(2);
        assert!(!world.is_fast_back(&reply().udp()));
        assert_eq!(world.node.flow(&key(17)).unwrap(), before);
        assert!(world.is_fast_back(&reply().udp()));
    });
}

#[test]
fn a_connection_that_ends_after_a_pause_ends_its_proof() {
    for (ends, what) in [(FIN_ACK, "FIN"), (RST, "RST")] {
        here(|_, world| {
            world.verified_tcp();
            world.node.age_snat(2);
            world.back(&reply().tcp(ends));
            assert!(!world.is_fast_out(&ask().tcp(ACK)), "{what}");
            assert_eq!(world.count(OutsideRx, Reason::TcpControl), 1, "{what}");
        });
    }
}

#[test]
fn tcp_is_fast_when_both_ways_came_through_the_stack() {
    here(|_, world| {
        world.out(&ask().tcp(SYN));
        world.back(&reply().tcp(SYN_ACK));
        assert_eq!(world.node.flows(), [], "a handshake makes no entry");
        world.lasts();
        world.out(&ask().tcp(ACK));
        world.out(&ask().tcp(ACK));
        assert!(
            !world.is_fast_out(&ask().tcp(ACK)),
            "one way proves nothing"
        );
        world.back(&reply().tcp(ACK));
        assert!(world.is_fast_out(&ask().tcp(ACK)));
        assert!(world.is_fast_back(&reply().tcp(ACK)));
    });
}

/// Only the TTL changes before the uplink, where the source does.
#[test]
fn a_fast_packet_leaves_one_hop_older_and_is_translated_at_the_uplink() {
    here(|_, world| {
        world.verified_tcp();
        let fast = world.pod_sends(&ask().tcp(ACK));
        assert_eq!(fast.action, REDIRECT);
        assert_eq!(source(&fast.packet), (POD, 50_000));
        assert_checksums(&fast.packet);
        assert_eq!(fast.packet[14 + 8], ask().tcp(ACK)[14 + 8] - 1);
        let before = world.node.flow(&key(6)).unwrap();
        let gone = world.leaves(fast.packet);
        assert_eq!(gone.action, UNSPEC);
        assert_eq!(source(&gone.packet), (US, 50_000));
        assert_checksums(&gone.packet);
        assert_eq!(
            world.node.flow(&key(6)).unwrap(),
            before,
            "it proves nothing"
        );
    });
}

#[test]
fn a_fast_reply_reaches_the_pod_translated() {
    here(|_, world| {
        world.verified_tcp();
        let fast = world.arrives(&reply().tcp(ACK));
        assert_eq!(fast.action, REDIRECT);
        assert_checksums(&fast.packet);
        let expected = ask().answer().tcp(ACK);
        assert_eq!(fast.packet[14 + 12..], expected[14 + 12..]);
        assert_eq!(fast.packet[14 + 8], expected[14 + 8] - 1);
        // Both programs tell.
        assert_eq!(world.count(UplinkSnatRx, Reason::SnatReply), 3);
        assert_eq!(world.count(OutsideRx, Reason::FastRx), 1);
    });
}

/// The entry of its translation is gone: a fast packet makes another, and never leaves as the pod.
#[test]
fn a_fast_packet_without_a_translation_gets_one() {
    here(|_, world| {
        world.verified_udp();
        let (out, inward) = world.node.snat_halves();
        world.node.evict_snat(&out);
        world.node.evict_snat(&inward);
        let before = world.count(SnatOpen, Reason::Snat);
        let gone = world.leaves(ask().udp());
        assert_eq!(gone.action, UNSPEC);
        assert_eq!(source(&gone.packet).0, US);
        assert_eq!(world.count(SnatOpen, Reason::Snat), before + 1);
        world.node.evict_snat(&out);
        world.node.remove_step(SnatOpen);
        world.node.evict_snat(&inward);
        let gone = world.leaves(ask().udp());
        assert_eq!(gone.action, SHOT, "nothing leaves as the pod");
    });
}

#[rstest]
#[case::young(REFRESH / 2, true)]
#[case::old(LIFETIME, false)]
fn a_proof_ends(#[case] ticks: u32, #[case] fast: bool) {
    here(|_, world| {
        world.verified_tcp();
        world.age(6, ticks);
        assert_eq!(world.is_fast_out(&ask().tcp(ACK)), fast);
        world.age(6, 0);
        assert_eq!(world.is_fast_back(&reply().tcp(ACK)), fast);
    });
}

#[test]
fn one_packet_renews_the_proof_and_the_others_go_on() {
    here(|_, world| {
        world.verified_tcp();
        world.age(6, REFRESH);
        world.out(&ask().tcp(ACK));
        assert_eq!(world.count(PodTx, Reason::Refresh), 1);
        assert!(world.is_fast_out(&ask().tcp(ACK)));
        world.back(&reply().tcp(ACK));
        assert_eq!(world.count(OutsideRx, Reason::Refresh), 1);
        assert!(world.is_fast_back(&reply().tcp(ACK)));
        world.node.bump_epoch();
        assert!(!world.is_fast_out(&ask().tcp(ACK)));
        assert!(!world.is_fast_back(&reply().tcp(ACK)));
    });
}

#[rstest]
#[case::fin(FIN_ACK)]
#[case::rst(RST)]
#[case::syn(SYN)]
#[case::syn_ack(SYN_ACK)]
fn conntrack_sees_what_opens_and_closes(#[case] flags: u8, #[values(true, false)] out: bool) {
    here(|_, world| {
        world.verified_tcp();
        if out {
            assert_eq!(world.pod_sends(&ask().tcp(flags)).action, UNSPEC);
        } else {
            let came = world.arrives(&reply().tcp(flags));
            assert_eq!(came.action, UNSPEC);
            assert_eq!(world.count(OutsideRx, Reason::TcpControl), 1);
        }
        assert!(!world.is_fast_out(&ask().tcp(ACK)));
        assert!(!world.is_fast_back(&reply().tcp(ACK)));
    });
}

/// Whoever forges a packet to the pod is no reply of a translated flow.
#[test]
fn only_what_was_translated_is_delivered() {
    here(|_, world| {
        world.verified_udp();
        assert!(world.is_fast_back(&reply().udp()));
        let forged = world.arrives(&ask().answer().udp());
        assert_eq!(forged.action, UNSPEC);
    });
}

#[rstest]
#[case::fast_path_off(Node { fast_path: FAST_PATH_OFF, ..Node::default() })]
#[case::source_nat_off(Node { snat_ports: (0, 0), ..Node::default() })]
fn switched_off_nothing_is_noted(#[case] node: Node) {
    world(&node, |_, world| {
        for _ in 0..4 {
            assert!(!world.is_fast_out(&ask().udp()));
            if node.fast_path == FAST_PATH_OFF {
                world.leaves(ask().udp());
            }
        }
        assert_eq!(world.node.counted(PodTx), []);
        assert_eq!(world.node.flows(), []);
    });
}

/// Without proof between pods; to the outside only the stack knows the way.
#[test]
fn without_proof_between_pods_the_outside_still_asks_for_one() {
    let node = Node {
        fast_path: FAST_PATH_ALWAYS,
        ..Node::default()
    };
    world(&node, |_, world| {
        world.leaves(ask().udp());
        world.lasts();
        for _ in 0..2 {
            assert!(!world.is_fast_out(&ask().udp()));
            world.leaves(ask().udp());
        }
        assert!(world.is_fast_out(&ask().udp()));
        world.back(&reply().udp());
        assert!(world.is_fast_back(&reply().udp()));
    });
}

#[rstest]
#[case::options(|p: &mut Vec<u8>| p[14] = 0x46, Reason::InnerOptions)]
#[case::fragment(|p: &mut Vec<u8>| p[20] = 0x20, Reason::InnerFragment)]
#[case::ttl(|p: &mut Vec<u8>| p[22] = 1, Reason::TtlExpiring)]
fn what_is_odd_takes_the_stack(#[case] odd: fn(&mut Vec<u8>), #[case] reason: Reason) {
    here(|_, world| {
        world.verified_udp();
        let (mut out, mut back) = (ask().udp(), reply().udp());
        odd(&mut out);
        odd(&mut back);
        assert!(!world.is_fast_out(&out));
        assert_eq!(world.count(PodTx, reason), 1);
        assert!(!world.is_fast_back(&back));
    });
}

/// They have done no harm, when nobody can go on in them.
#[test]
fn without_its_steps_translation_goes_on() {
    here(|_, world| {
        world.node.remove_step(OutsideTx);
        world.node.remove_step(OutsideRx);
        world.verified_udp();
        assert!(!world.is_fast_out(&ask().udp()));
        assert_eq!(world.count(UplinkTx, Reason::Snat), 2);
        assert_eq!(world.count(UplinkSnatRx, Reason::SnatReply), 1);
    });
}

/// A test run takes no packet shorter than an IPv4 header.
#[test]
fn packets_cut_off_anywhere_take_the_stack_or_stay_whole() {
    here(|_, world| {
        world.verified_tcp();
        let (out, back) = (ask().tcp(ACK), reply().tcp(ACK));
        for len in 34..54 {
            let gone = world.leaves(out[..len].to_vec());
            assert!(gone.action == SHOT || source(&gone.packet).0 == US, "{len}");
            assert!(!world.is_fast_out(&out[..len]) || len >= 48, "{len}");
            assert!(!world.is_fast_back(&back[..len]) || len >= 54, "{len}");
        }
    });
}
