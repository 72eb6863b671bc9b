//! Frames that pods make in others' names, packet by packet: they prove nothing, and take nothing over.

#![cfg(test)]

use flannel_common::flow::{Flow, FlowKey};
use flannel_common::globals::FAST_PATH_ALWAYS;
use flannel_common::program::Program::{OverlayTx, PodRx, PodTx};
use flannel_tests::packet::flows::{
    is_fast_in, is_fast_out, tcp_key, through_the_stack_in, through_the_stack_out, udp_key,
};
use flannel_tests::packet::way::Way;
use flannel_tests::packet::world::{BRIDGE, UPLINK, here, world};
use flannel_tests::packet::{Fixture, Inner, Node, Run, UNSPEC};
use rstest::rstest;

/// Pod B makes a frame that looks like an answer to pod A, and has the bridge send it back to itself.
#[test]
fn a_frame_that_a_pod_made_is_no_answer() {
    here(|_, world| {
        let node = &mut world.node;
        through_the_stack_out(node, Inner::udp);
        Way::In.goes_in(node, &Inner::inbound().udp(), 0);
        let to_itself = Inner {
            dst_mac: [0x0a, 0, 0, 0, 0, 6],
            ..Inner::to_pod()
        }
        .udp();
        let forged = Run {
            packet: &to_itself,
            // By its port.
            came_by: BRIDGE,
            device: BRIDGE,
            ..Run::default()
        };
        node.run_with(PodRx, &forged);
        let flow = node.flow(&udp_key()).unwrap();
        assert_eq!((flow.rx.verified, flow.rx.port), (0, 0));
        // The true one comes out all the same.
        Way::In.comes_out(node, &Inner::to_pod().udp());
        assert_eq!(node.flow(&udp_key()).unwrap().pod_mac, Inner::POD_MAC);
    });
}

#[rstest]
#[case::verified(Node::default(), udp_key())]
#[case::always(Node { fast_path: FAST_PATH_ALWAYS, ..Node::default() }, FlowKey::pod([10, 244, 1, 5]))]
fn what_comes_out_of_two_ports_was_sent_to_none(#[case] node: Node, #[case] key: FlowKey) {
    world(&node, |_, world| {
        let node = &mut world.node;
        let packet = Inner::to_pod().udp();
        let comes_out_of = |node: &mut Fixture, device| {
            let run = Run {
                packet: &packet,
                came_by: Node::FLANNEL,
                device,
                ..Run::default()
            };
            node.run_with(PodRx, &run);
        };
        let port = |node: &Fixture| node.flow(&key).map_or(0, |flow| flow.rx.port);
        for ports in [&[BRIDGE, UPLINK][..], &[UPLINK, BRIDGE, 0]] {
            Way::In.goes_in(node, &Inner::inbound().udp(), 0);
            for device in ports {
                comes_out_of(node, *device);
            }
            assert_eq!(port(node), 0, "{ports:?}");
        }
        Way::In.goes_in(node, &Inner::inbound().udp(), 0);
        comes_out_of(node, UPLINK);
        assert_eq!(port(node), UPLINK);
        // To another one the next time: the bridge has learnt.
        Way::In.goes_in(node, &Inner::inbound().udp(), 0);
        comes_out_of(node, BRIDGE);
        assert_eq!(port(node), BRIDGE);
    });
}

#[rstest]
#[case::by_a_port(|run: &mut Run<'_>| run.came_by = BRIDGE)]
#[case::by_nobody(|run: &mut Run<'_>| run.came_by = 0)]
fn without_proof_a_pod_s_port_is_learnt_from_the_tunnel_alone(
    #[case] change: fn(&mut Run<'_>),
    #[values([0x0a, 0, 0, 0, 0, 5], [0xff; 6], [1, 0, 0x5e, 0, 0, 1])] mac: [u8; 6],
) {
    let node = Node {
        fast_path: FAST_PATH_ALWAYS,
        ..Node::default()
    };
    world(&node, |_, world| {
        let node = &mut world.node;
        let packet = Inner {
            dst_mac: mac,
            ..Inner::to_pod()
        }
        .udp();
        let mut run = Run {
            packet: &packet,
            came_by: Node::FLANNEL,
            ..Run::default()
        };
        change(&mut run);
        node.run_with(PodRx, &run);
        Way::In.goes_in(node, &Inner::inbound().udp(), 0);
        node.run_with(PodRx, &run);
        assert_eq!(node.flows(), []);
        run.came_by = Node::FLANNEL;
        node.run_with(PodRx, &run);
        assert_eq!(node.flows().is_empty(), mac[0] & 1 != 0);
    });
}

#[test]
fn a_group_of_pods_is_no_pod() {
    let mut node = Node::default().load();
    Way::In.goes_in(&mut node, &Inner::inbound().udp(), 0);
    let packet = Inner {
        dst_mac: [0xff; 6],
        ..Inner::to_pod()
    };
    Way::In.comes_out(&mut node, &packet.udp());
    assert_eq!(node.flows(), []);
    Way::In.is_proven_by_the_true_one(&mut node);
}

/// Pod B sends in the name of pod A, by its own port.
#[test]
fn a_proven_flow_is_one_pod_s() {
    here(|_, world| {
        let node = &mut world.node;
        through_the_stack_out(node, Inner::tcp);
        through_the_stack_in(node, Inner::tcp);
        assert!(is_fast_out(node));
        let packet = Inner::from_pod().tcp();
        let other = Run {
            packet: &packet,
            device: BRIDGE,
            ..Run::default()
        };
        let before = flow(node);
        assert_eq!(node.run_with(PodTx, &other).action, UNSPEC);
        // The stack may let it through; the flow is pod A's all the same.
        node.run(OverlayTx, &Inner::outbound().tcp());
        assert_eq!(flow(node), before);
        assert!(is_fast_out(node) && is_fast_in(node));
        // Once pod A is gone, the agent raises the epoch.
        node.bump_epoch();
        node.run_with(PodTx, &other);
        node.run(OverlayTx, &Inner::outbound().tcp());
        assert_eq!(flow(node).tx.port, BRIDGE);
    });
}

fn flow(node: &Fixture) -> Flow {
    node.flow(&tcp_key()).unwrap()
}
