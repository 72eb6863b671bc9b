//! Out of the cluster past the stack, packet by packet: which way, how long, and who never.

#![cfg(test)]

use flannel_common::flow::{FlowKey, REFRESH};
use flannel_common::maps::{PEER_DIRECT, Peer};
use flannel_common::outside::Way;
use flannel_common::program::Program::{OutsideTx, PodTx, UplinkSnatRx, UplinkTx};
use flannel_common::reason::Reason;
use flannel_tests::packet::outside::{ACK, POD, Plain, REMOTE_POD, SERVER, US, source};
use flannel_tests::packet::world::{BRIDGE, GATEWAY, UPLINK, ask, here, key, reply, routed};
use flannel_tests::packet::{Node, REDIRECT, Run, UNSPEC};
use rstest::rstest;

#[rstest]
#[case::another_gateway(
    "ip neigh replace 192.168.0.254 lladdr 02:00:00:00:00:aa dev eth0 nud permanent"
)]
#[case::an_unknown_neighbour("ip neigh del 192.168.0.254 dev eth0")]
#[case::another_device("ip route replace default dev cni0")]
#[case::no_route("ip route del default")]
#[case::forbidden("ip route add prohibit 198.51.100.0/24")]
#[case::forwarding_off("sysctl -qw net.ipv4.conf.cni0.forwarding=0")]
fn a_way_that_the_table_does_not_confirm_proves_nothing(#[case] change: &str) {
    here(|netns, world| {
        netns.run(change);
        world.verified_udp();
        assert!(!world.is_fast_out(&ask().udp()));
        assert_eq!(world.count(OutsideTx, Reason::Verified), 0);
        assert!(world.count(OutsideTx, Reason::Unverified) > 0);
    });
}

#[test]
fn on_the_same_link_the_destination_is_the_next_hop() {
    here(|netns, world| {
        netns.run("ip route add 198.51.100.0/24 dev eth0");
        netns.run("ip neigh add 198.51.100.9 lladdr 02:00:00:00:00:fe dev eth0 nud permanent");
        world.verified_udp();
        assert!(world.is_fast_out(&ask().udp()));
        let flow = world.node.flow(&key(17)).unwrap();
        assert_eq!(flow.peer.next_hop, SERVER);
    });
}

/// What the node sends itself, and what leaves by a device that is not the uplink.
#[rstest]
#[case::of_the_node(0, UPLINK)]
#[case::by_another_device(BRIDGE, BRIDGE)]
fn what_else_leaves_proves_nothing(#[case] came_by: u32, #[case] device: u32) {
    here(|_, world| {
        for _ in 0..3 {
            world.pod_sends(&ask().udp());
            let packet = routed(ask().udp());
            let run = Run {
                packet: &packet,
                came_by,
                device,
                ..Run::default()
            };
            assert_eq!(source(&world.node.run_with(UplinkTx, &run).packet).0, US);
        }
        assert!(!world.is_fast_out(&ask().udp()));
        assert_eq!(world.count(OutsideTx, Reason::Verified), 0);
    });
}

#[test]
fn nothing_longer_than_what_came_out_is_fast() {
    here(|_, world| {
        world.verified_udp();
        let of = |payload| Plain { payload, ..ask() }.udp();
        assert!(world.is_fast_out(&of(576 - 28)), "any route takes that");
        let longer = of(576 - 28 + 1);
        assert!(!world.is_fast_out(&longer));
        assert!(world.is_fast_out(&ask().udp()), "the proof holds");
        world.leaves(longer.clone());
        assert!(world.is_fast_out(&longer), "the stack let it out");
        world.out(&of(1450));
        assert_eq!(world.count(PodTx, Reason::OverMtu), 1);
        // A shorter one renews the proof and changes nothing about that.
        world.age(17, REFRESH);
        world.out(&ask().udp());
        assert!(world.is_fast_out(&longer));
        world.node.bump_epoch();
        world.out(&ask().udp());
        assert!(!world.is_fast_out(&longer), "a route may be another now");
    });
}

#[test]
fn segments_count_one_by_one() {
    here(|_, world| {
        world.verified_tcp();
        let bulk = Plain {
            payload: 3_000,
            ..ask()
        };
        let packet = bulk.tcp(ACK);
        let of = |gso_size| Run {
            packet: &packet,
            gso_size,
            ..Run::default()
        };
        assert_eq!(world.node.run_with(PodTx, &of(576 - 40)).action, REDIRECT);
        assert_eq!(world.node.run_with(PodTx, &of(577 - 40)).action, UNSPEC);
    });
}

/// kube-proxy translates it before it leaves, or masquerades it: no entry, and no proof.
#[test]
fn what_the_kernel_translates_makes_no_entry() {
    here(|_, world| {
        for _ in 0..5 {
            world.pod_sends(&ask().udp());
            // To a service; its endpoint is what leaves.
            let endpoint = Plain {
                dst: [203, 0, 113, 7],
                ..ask()
            };
            world.leaves_with(endpoint.udp(), 0x4000);
            world.lasts();
            // The node's own, or masqueraded by the kernel.
            world.leaves(ask().from(US, 1500).udp());
        }
        assert_eq!(world.node.flows(), []);
        assert_eq!(world.node.counted(PodTx), []);
    });
}

#[test]
fn exempt_destinations_and_what_came_in_take_the_stack() {
    here(|_, world| {
        world.node.exempt([198, 51, 100, 0], 24);
        for _ in 0..4 {
            assert!(!world.is_fast_out(&ask().udp()));
            assert_eq!(source(&world.leaves(ask().udp()).packet), (POD, 50_000));
        }
        assert_eq!(world.node.flows(), []);
    });
    here(|_, world| {
        let to_pod = ask().answer();
        for _ in 0..4 {
            world.arrives(&to_pod.udp());
            world.reaches_pod(&to_pod.udp());
            assert!(!world.is_fast_out(&ask().udp()));
            assert_eq!(source(&world.leaves(ask().udp()).packet), (POD, 50_000));
        }
        assert_eq!(world.node.flows(), []);
    });
}

/// A Network that grew: what was outside is a pod's now, and not translated any more.
#[test]
fn a_way_out_is_none_between_pods() {
    here(|_, world| {
        world.verified_udp();
        let flow = world.node.flow(&key(17)).unwrap();
        let between = FlowKey {
            remote: REMOTE_POD,
            ..key(17)
        };
        world.node.set_flow(&between, &flow);
        let packet = Plain {
            dst: REMOTE_POD,
            ..ask()
        };
        assert!(!world.is_fast_out(&packet.udp()));
        // And the other way round.
        let peer = Peer {
            public_ip: Node::PEER_IP,
            next_hop: Node::PEER_IP,
            vtep_mac: Node::PEER_MAC,
            kind: PEER_DIRECT,
            narrow: 0,
        };
        world.change(17, |flow| flow.peer = peer);
        assert!(!world.is_fast_out(&ask().udp()));
    });
}

/// It was proven at an uplink that is none any more: nobody translates there.
#[test]
fn a_way_by_another_device_is_none() {
    here(|_, world| {
        world.verified_udp();
        world.change(17, |flow| {
            flow.peer = Way::new(UPLINK + 1, GATEWAY, 1450).into();
        });
        assert!(!world.is_fast_out(&ask().udp()));
    });
}

/// Routing need not be symmetric.
#[test]
fn a_reply_to_the_uplinks_address_finds_its_pod_at_any_device() {
    here(|_, world| {
        world.verified_udp();
        world.node.outlet([203, 0, 113, 200]);
        assert_eq!(world.arrives(&reply().udp()).action, REDIRECT);
        // Whether it may come by that device is for the stack to say.
        let came = world.node.run(UplinkSnatRx, &reply().udp());
        assert_eq!(came.action, UNSPEC);
        assert_eq!(came.packet[14 + 16..14 + 20], POD);
        let stray = Plain {
            dst: [203, 0, 113, 201],
            ..reply()
        };
        let came = world.node.run(UplinkSnatRx, &stray.udp());
        assert_eq!((came.action, came.packet), (UNSPEC, stray.udp()));
    });
}
