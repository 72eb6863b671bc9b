//! Large packets past the pod bridge, packet by packet: which, whereto, and for how long.

#![cfg(test)]

use flannel_common::flow::{Flow, FlowKey, PORT_LIFETIME, PORT_REFRESH};
use flannel_common::program::Program::{BridgeRx, PodRx, PodTx};
use flannel_common::reason::Reason;
use flannel_tests::packet::world::{BRIDGE, UPLINK, here};
use flannel_tests::packet::{Fixture, Inner, Node, REDIRECT, Run, UNSPEC};
use rstest::rstest;

/// The loopback device stands for `flannel.<VNI>`, as for all others.
const FLANNEL: u32 = 1;
const POD: [u8; 4] = [10, 244, 1, 5];
const SEGMENT: u32 = 1400;

/// What kube-proxy made of a reply: it comes from the service.
fn from_service() -> Inner {
    Inner {
        src: [10, 96, 0, 10],
        payload: 3000,
        ..Inner::to_pod()
    }
}

fn cut_up() -> Inner {
    Inner {
        payload: SEGMENT as usize,
        ..from_service()
    }
}

/// At the bridge, from the stack.
fn at_bridge(node: &mut Fixture, packet: &[u8]) -> i32 {
    let run = Run {
        packet,
        gso_size: SEGMENT,
        came_by: FLANNEL,
        ..Run::default()
    };
    node.run_with(BridgeRx, &run).action
}

/// Behind the bridge, at a port. 0: the loopback device.
fn at_port(node: &mut Fixture, packet: &[u8], device: u32) {
    let run = Run {
        packet,
        device,
        came_by: FLANNEL,
        ..Run::default()
    };
    assert_eq!(node.run_with(PodRx, &run).action, UNSPEC);
}

fn is_whole(node: &mut Fixture) -> bool {
    at_bridge(node, &from_service().tcp()) == REDIRECT
}

/// The verifier takes its time, and what is known here lives for half a second.
fn load(node: &mut Fixture) {
    node.program(BridgeRx);
    node.program(PodRx);
    node.program(PodTx);
}

fn known_port() -> Fixture {
    let mut node = Node::default().load();
    load(&mut node);
    assert!(!is_whole(&mut node));
    at_port(&mut node, &cut_up().tcp(), 0);
    node
}

fn change(node: &mut Fixture, change: impl FnOnce(&mut Flow)) {
    let mut pod = node.flow(&FlowKey::pod(POD)).unwrap();
    change(&mut pod);
    node.set_flow(&FlowKey::pod(POD), &pod);
}

fn age(node: &mut Fixture, ticks: u32) {
    change(node, |pod| {
        pod.rx.verified = pod.rx.verified.wrapping_sub(ticks) | 1;
        pod.rx.probed = pod.rx.probed.wrapping_sub(ticks) | 1;
    });
}

#[test]
fn a_large_packet_goes_where_the_bridge_sent_the_one_before() {
    let mut node = known_port();
    let run = Run {
        packet: &from_service().tcp(),
        gso_size: SEGMENT,
        came_by: FLANNEL,
        ..Run::default()
    };
    let out = node.run_with(BridgeRx, &run);
    assert_eq!((out.action, out.packet), (REDIRECT, from_service().tcp()));
    assert_eq!(node.counted(BridgeRx), [(Reason::PastBridge, 1)]);
    let pod = node.flow(&FlowKey::pod(POD)).unwrap();
    assert_eq!((pod.rx.port, pod.pod_mac), (1, Inner::POD_MAC));
}

/// The node translates the address that was asked for: the pod's answers are those of a plain flow, which never comes in.
#[test]
fn a_flow_that_is_half_known_is_translated_all_the_same() {
    let mut node = Node::default().load();
    load(&mut node);
    assert_eq!(node.run(PodTx, &Inner::from_pod().tcp()).action, UNSPEC);
    let translated = |payload| Inner {
        payload,
        ..Inner::to_pod()
    };
    let large = translated(3000).tcp();
    assert_eq!(at_bridge(&mut node, &large), UNSPEC);
    at_port(&mut node, &translated(SEGMENT as usize).tcp(), 0);
    assert_eq!(at_bridge(&mut node, &large), REDIRECT);
}

/// None of them is cut up there, or none is for a pod of this node.
#[rstest]
#[case::one_packet(|run: &mut Run<'_>| run.gso_size = 0)]
#[case::from_the_node(|run: &mut Run<'_>| run.came_by = 0)]
fn others_take_the_bridge(#[case] change: fn(&mut Run<'_>)) {
    let mut node = known_port();
    let before = node.counted(BridgeRx);
    let mut run = Run {
        packet: &from_service().tcp(),
        gso_size: SEGMENT,
        came_by: FLANNEL,
        ..Run::default()
    };
    change(&mut run);
    assert_eq!(node.run_with(BridgeRx, &run).action, UNSPEC);
    assert_eq!(node.counted(BridgeRx), before);
}

#[test]
fn so_does_what_is_no_tcp_for_a_pod_of_this_node() {
    let mut node = known_port();
    let before = node.counted(BridgeRx);
    assert_eq!(at_bridge(&mut node, &from_service().udp()), UNSPEC);
    let elsewhere = Inner {
        dst: [10, 244, 2, 5],
        ..from_service()
    };
    assert_eq!(at_bridge(&mut node, &elsewhere.tcp()), UNSPEC);
    assert_eq!(node.counted(BridgeRx), before);
}

/// The address is another pod's by now, as the neighbour table knows already.
#[test]
fn a_frame_for_another_mac_takes_the_bridge() {
    let mut node = known_port();
    let successor = Inner {
        dst_mac: [0x0a, 0, 0, 0, 0, 6],
        ..from_service()
    };
    assert_eq!(at_bridge(&mut node, &successor.tcp()), UNSPEC);
    at_port(
        &mut node,
        &Inner {
            payload: SEGMENT as usize,
            ..successor.clone()
        }
        .tcp(),
        0,
    );
    assert_eq!(at_bridge(&mut node, &successor.tcp()), REDIRECT);
    assert!(!is_whole(&mut node), "what is for its predecessor");
}

#[test]
fn a_new_epoch_forgets_the_port() {
    let mut node = known_port();
    node.bump_epoch();
    assert!(!is_whole(&mut node));
    at_port(&mut node, &cut_up().tcp(), 0);
    assert!(is_whole(&mut node));
}

#[test]
fn a_packet_takes_the_bridge_now_and_then() {
    let mut node = known_port();
    age(&mut node, PORT_REFRESH + 1);
    assert!(!is_whole(&mut node), "looks at the bridge's choice");
    assert!(is_whole(&mut node), "the rest goes on");
}

/// What went past the bridge says nothing of it, however much of it there is.
#[test]
fn only_what_the_bridge_sent_renews() {
    let mut node = known_port();
    change(&mut node, |pod| {
        pod.rx.verified = pod.rx.verified.wrapping_sub(PORT_LIFETIME + 1) | 1;
    });
    let run = Run {
        packet: &from_service().tcp(),
        gso_size: SEGMENT,
        came_by: FLANNEL,
        ..Run::default()
    };
    node.run_with(PodRx, &run);
    assert!(!is_whole(&mut node));
    at_port(&mut node, &cut_up().tcp(), 0);
    assert!(is_whole(&mut node));
}

#[test]
fn a_port_is_forgotten_that_the_bridge_does_not_send_to_any_more() {
    let mut node = known_port();
    age(&mut node, PORT_LIFETIME + 1);
    assert!(!is_whole(&mut node));
    assert!(!is_whole(&mut node));
}

/// Nothing large waits for it: a port looks no further than its flow.
#[test]
fn short_packets_and_those_of_others_teach_nothing() {
    let mut node = Node::default().load();
    at_port(&mut node, &cut_up().tcp(), 0);
    assert_eq!(node.flow(&FlowKey::pod(POD)), None, "nobody asked");

    assert!(!is_whole(&mut node));
    let short = Inner {
        payload: 100,
        ..from_service()
    };
    at_port(&mut node, &short.tcp(), 0);
    let of_others = Run {
        packet: &cut_up().tcp(),
        ..Run::default()
    };
    assert_eq!(node.run_with(PodRx, &of_others).action, UNSPEC);
    assert!(!is_whole(&mut node));
}

/// The bridge does not know the MAC, and sends to every port.
#[test]
fn a_frame_that_comes_out_of_two_ports_teaches_nothing() {
    here(|_, world| {
        let node = &mut world.node;
        load(node);
        assert!(!is_whole(node));
        for port in [UPLINK, BRIDGE, 0] {
            at_port(node, &cut_up().tcp(), port);
        }
        assert!(!is_whole(node));
        at_port(node, &cut_up().tcp(), BRIDGE);
        assert!(is_whole(node));
        assert_eq!(node.flow(&FlowKey::pod(POD)).unwrap().rx.port, BRIDGE);
    });
}

/// Same address, same MAC, another port.
#[test]
fn a_pod_that_moved_is_found_at_its_new_port() {
    here(|_, world| {
        let node = &mut world.node;
        load(node);
        assert!(!is_whole(node));
        at_port(node, &cut_up().tcp(), UPLINK);
        assert!(is_whole(node));
        age(node, PORT_REFRESH + 1);
        assert!(!is_whole(node));
        at_port(node, &cut_up().tcp(), BRIDGE);
        assert!(
            !is_whole(node),
            "the old one is wrong, the new one not sure"
        );
        at_port(node, &cut_up().tcp(), BRIDGE);
        assert!(is_whole(node));
        assert_eq!(node.flow(&FlowKey::pod(POD)).unwrap().rx.port, BRIDGE);
    });
}
