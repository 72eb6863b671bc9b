//! From the hook before the stack to the one behind it, packet by packet: only the packet that went in shows anything.

#![cfg(test)]

use flannel_common::crossing::LONGEST;
use flannel_common::globals::{FAST_PATH_ALWAYS, POD_HOOK_BRIDGE};
use flannel_common::program::Program::{OverlayRx, OverlayTx, PodRx, PodTx};
use flannel_tests::packet::flows::{
    change_flow, is_fast_in, tcp_key, through_the_stack_out, verified_tcp,
};
use flannel_tests::packet::way::{Fast, WAYS, Way, node_with_both};
use flannel_tests::packet::{Fixture, Inner, Node, REDIRECT, Run, UNSPEC, cpu, patched};
use flannel_tests::wait::{SOON, eventually};
use rstest::rstest;

#[test]
fn the_packet_that_went_in_proves_its_flow() {
    for way in WAYS {
        let mut node = node_with_both();
        way.goes_in(&mut node, &way.before().udp(), 0);
        way.comes_out(&mut node, &way.after().udp());
        assert!(way.is_fast(&mut node), "{way:?}");
    }
}

/// Offset of the IPv4 header and of what follows it.
const IP: usize = 14;
const L4: usize = 34;

#[rstest]
#[case::of_another_length(|p: &mut Vec<u8>| p[IP + 3] ^= 1)]
#[case::with_another_id(|p: &mut Vec<u8>| p[IP + 5] ^= 1)]
#[case::that_may_be_fragmented(|p: &mut Vec<u8>| p[IP + 6] ^= 0x40)]
#[case::with_another_ttl(|p: &mut Vec<u8>| p[IP + 8] = 64 + 7)]
#[case::that_met_congestion(|p: &mut Vec<u8>| p[IP + 1] |= 3)]
#[case::with_other_content(|p: &mut Vec<u8>| p[L4 + 9] ^= 1)]
fn another_packet_of_the_flow_proves_nothing(#[case] other: fn(&mut Vec<u8>)) {
    for way in WAYS {
        let mut node = node_with_both();
        way.goes_in(&mut node, &way.before().udp(), 0);
        let mut packet = way.after().udp();
        other(&mut packet);
        way.comes_out(&mut node, &packet);
        assert_eq!(node.flows(), [], "{way:?}");
        way.is_proven_by_the_true_one(&mut node);
    }
}

/// Whatever keeps a packet in the stack for so long, another of the flow's may look like it by then.
#[test]
fn a_packet_that_was_long_in_the_stack_proves_nothing() {
    for way in WAYS {
        let mut node = node_with_both();
        way.goes_in(&mut node, &way.before().udp(), 0);
        node.age_notes(LONGEST);
        way.comes_out(&mut node, &way.after().udp());
        assert_eq!(node.flows(), [], "{way:?}");
        way.is_proven_by_the_true_one(&mut node);
    }
}

#[test]
fn a_packet_that_another_cpu_saw_proves_nothing() {
    for way in WAYS {
        let mut node = node_with_both();
        // The programs are loaded by their first run.
        way.comes_out(&mut node, &way.after().udp());
        cpu::elsewhere(|| way.goes_in(&mut node, &way.before().udp(), 0));
        way.comes_out(&mut node, &way.after().udp());
        assert_eq!(node.flows(), [], "{way:?}");
        eventually("there it is its own", SOON, || {
            cpu::elsewhere(|| {
                way.goes_in(&mut node, &way.before().udp(), 0);
                way.comes_out(&mut node, &way.after().udp());
            });
            way.is_fast(&mut node)
        });
    }
}

/// A batch passes the hook before the stack as a whole.
#[test]
fn flows_side_by_side_do_not_take_each_other_s_place() {
    for way in WAYS {
        let mut node = node_with_both();
        // Whether two share a place is their addresses' and ports' matter: these do not.
        way.goes_in(&mut node, &way.before().udp(), 0);
        way.goes_in(&mut node, &way.before().tcp(), 0);
        way.comes_out(&mut node, &way.after().udp());
        assert!(way.is_fast(&mut node), "{way:?}");
    }
}

#[test]
fn what_went_in_before_the_epoch_was_raised_proves_nothing_in_the_new_one() {
    for way in WAYS {
        let mut node = node_with_both();
        way.goes_in(&mut node, &way.before().udp(), 0);
        node.bump_epoch();
        way.comes_out(&mut node, &way.after().udp());
        assert!(!way.is_fast(&mut node), "{way:?}");
        way.is_proven_by_the_true_one(&mut node);
    }
}

/// Rules that do not translate: what they write is written to the next packet, and only to one like it.
#[rstest]
fn what_the_stack_writes_is_repeated(
    #[values(0, 0x10000)] mark: u32,
    #[values(0, 0x1_0010)] priority: u32,
    #[values(0, 0xb8)] tos: u8,
) {
    for way in WAYS {
        let mut node = node_with_both();
        let after = Inner { tos, ..way.after() };
        way.goes_in(&mut node, &way.before().udp(), 0);
        let run = Run {
            packet: &after.udp(),
            mark,
            priority,
            ..Run::default()
        };
        way.comes_out_as(&mut node, &run);

        let fast = way.fast(&mut node, &way.before().udp(), 0);
        let fast = fast.expect("a proven flow");
        assert_eq!(fast.packet[IP..], after.udp()[IP..], "{way:?}");
        let class = match way {
            Way::Out | Way::OutDirectly => (mark, priority),
            // A veth takes them off.
            Way::In | Way::InDirectly => (0, 0),
        };
        assert_eq!(fast.class, class, "{way:?}");
        let other = Inner {
            tos: 0x20,
            ..way.before()
        };
        assert_eq!(way.fast(&mut node, &other.udp(), 0), None, "{way:?}");
        assert_eq!(way.fast(&mut node, &way.before().udp(), 5), None, "{way:?}");
        // Congestion is the network's matter, and no rule's.
        let ecn = Inner {
            tos: 2,
            ..way.before()
        };
        let fast = way.fast(&mut node, &ecn.udp(), 0).expect("the same flow");
        assert_eq!(fast.packet[IP + 1], tos | 2, "{way:?}");
    }
}

/// At the bridge they are for the queueing disciplines of its ports.
#[test]
fn behind_the_bridge_mark_and_class_last() {
    let at_bridge = Node {
        pod_hook: POD_HOOK_BRIDGE,
        ..Node::default()
    };
    let mut node = at_bridge.load();
    through_the_stack_out(&mut node, Inner::udp);
    Way::In.goes_in(&mut node, &Inner::inbound().udp(), 0);
    let run = Run {
        packet: &Inner::to_pod().udp(),
        mark: 7,
        priority: 9,
        ..Run::default()
    };
    Way::In.comes_out_as(&mut node, &run);
    let fast = Way::In.fast(&mut node, &Inner::inbound().udp(), 0);
    let want = Fast {
        packet: Inner::to_pod().udp(),
        class: (7, 9),
    };
    assert_eq!(fast, Some(want));
}

/// The agent has found a queueing discipline or a filter there, or another kind of device.
#[test]
fn a_device_that_is_not_fit_proves_nothing() {
    for way in WAYS {
        let mut node = node_with_both();
        node.unfit(1);
        way.goes_in(&mut node, &way.before().udp(), 0);
        way.comes_out(&mut node, &way.after().udp());
        assert!(!way.is_fast(&mut node), "{way:?}");
        node.fit(1);
        way.goes_in(&mut node, &way.before().udp(), 0);
        way.comes_out(&mut node, &way.after().udp());
        assert!(way.is_fast(&mut node), "{way:?}");
    }
}

#[test]
fn nothing_is_always_fast_from_a_device_that_is_not_fit() {
    let mut node = Node {
        fast_path: FAST_PATH_ALWAYS,
        ..Node::default()
    }
    .load();
    let packet = Inner::from_pod().udp();
    assert_ne!(node.run(PodTx, &packet).action, UNSPEC);
    node.unfit(1);
    assert_eq!(node.run(PodTx, &packet).action, UNSPEC);
    node.fit(1);
    assert_ne!(node.run(PodTx, &packet).action, UNSPEC);
}

/// `cni0` cuts up what the tunnel brought whole.
#[test]
fn the_first_segment_renews_for_all() {
    let mut node = verified_tcp();
    change_flow(&mut node, |flow| flow.rx.verified = 0);
    let whole = Inner {
        payload: 3000,
        ..Inner::inbound()
    };
    let run = Run {
        packet: &whole.tcp(),
        gso_size: 1400,
        ..Run::default()
    };
    assert_eq!(node.run_with(OverlayRx, &run).action, UNSPEC);
    let segment = Inner {
        payload: 1400,
        ..Inner::to_pod()
    };
    let second = patched(segment.tcp(), L4 + 4, &2400u32.to_be_bytes());
    node.run(PodRx, &second);
    assert!(!is_fast_in(&mut node));
    node.run_with(OverlayRx, &run);
    node.run(PodRx, &segment.tcp());
    assert!(is_fast_in(&mut node));
}

/// One that is proven to leave the stack as it is goes to the peer, whoever looks at it.
#[test]
fn what_goes_past_the_stack_leaves_no_note() {
    let mut node = verified_tcp();
    let packet = Inner::from_pod().tcp();
    assert_eq!(node.run(PodTx, &packet).action, REDIRECT);
    let flow = |node: &Fixture| node.flow(&tcp_key()).unwrap();
    let before = flow(&node);
    // Some seconds later it would be old; a note of it would renew the proof.
    let later = Inner {
        payload: 31,
        ..Inner::from_pod()
    };
    assert_eq!(node.run(PodTx, &later.tcp()).action, REDIRECT);
    let out = Inner {
        payload: 31,
        ..Inner::outbound()
    };
    node.run(OverlayTx, &out.tcp());
    assert_eq!(flow(&node), before);
}
