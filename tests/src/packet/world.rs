//! A node whose pods talk to a server outside: the programs in a namespace with routes and neighbours.

use flannel_common::Ipv4;
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::outside::LASTING;
use flannel_common::program::Program::{self, PodRx, PodTx, UplinkSnatRx, UplinkTx};
use flannel_common::reason::Reason;

use super::flows::earlier;
use super::outside::{ACK, POD, Plain, SERVER, SYN, SYN_ACK, US, assert_checksums, source};
use super::{Fixture, Node, Outcome, REDIRECT, Run, UNSPEC, forwarded};
use crate::netns::Netns;
use crate::sweep;

pub const GATEWAY: Ipv4 = [192, 168, 0, 254];
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Interface indexes in the namespace.
pub const UPLINK: u32 = 10;
pub const BRIDGE: u32 = 20;

/// A namespace with routes and neighbours as a node has them, and the programs in it.
#[derive(Debug)]
pub struct World {
    pub node: Fixture,
}

fn namespace() -> Netns {
    let netns = Netns::create(&sweep::unique_name());
    let gateway = "192.168.0.254";
    netns.run("sysctl -qw net.ipv4.ip_forward=1");
    for line in [
        format!(
            "ip link add eth0 index {UPLINK} address 02:00:00:00:00:01 type veth peer name wire"
        ),
        format!("ip link add cni0 index {BRIDGE} type veth peer name pod"),
        "ip link set eth0 up".to_owned(),
        "ip link set wire up".to_owned(),
        "ip link set cni0 up".to_owned(),
        "ip link set pod up".to_owned(),
        "ip addr add 192.168.0.1/24 dev eth0".to_owned(),
        "ip addr add 10.244.1.1/24 dev cni0".to_owned(),
        format!("ip neigh add {gateway} lladdr 02:00:00:00:00:fe dev eth0 nud permanent"),
        format!("ip route add default via {gateway}"),
    ] {
        netns.run(&line);
    }
    netns
}

impl Node {
    /// [`Self::load`], in a namespace in which the calling thread stays: whose packets are routed to peers on the link of the
    /// uplink, 192.168.0.2 with the pods 10.244.2.0/24 and 192.168.0.3 with 10.244.3.0/24.
    pub fn load_among_peers(&self) -> Fixture {
        self.among_peers(Self::load)
    }

    /// The same with [`Self::load_snat`].
    pub fn load_snat_among_peers(&self) -> Fixture {
        self.among_peers(Self::load_snat)
    }

    fn among_peers(&self, load: fn(&Self) -> Fixture) -> Fixture {
        let netns = namespace();
        for n in [2, 3] {
            let peer = format!("192.168.0.{n}");
            netns.run(&format!("ip route add 10.244.{n}.0/24 via {peer}"));
            netns.run(&format!(
                "ip neigh add {peer} lladdr 02:00:00:00:00:01 dev eth0 nud permanent"
            ));
        }
        netns.settle();
        let mut node = load(&Self {
            uplink_index: UPLINK,
            ..self.clone()
        });
        node.direct_peer([10, 244, 3, 0], 24, [192, 168, 0, 3]);
        node.among_peers = Some(netns);
        node
    }
}

/// Runs a test inside a namespace: a test run asks the routing table of the thread's.
pub fn world(node: &Node, test: impl FnOnce(&Netns, &mut World) + Send) {
    let netns = namespace();
    let node = Node {
        uplink_index: UPLINK,
        ..node.clone()
    };
    netns.enter(|| {
        let mut world = World {
            node: node.load_snat(),
        };
        test(&netns, &mut world);
    });
}

pub fn here(test: impl FnOnce(&Netns, &mut World) + Send) {
    world(&Node::default(), test);
}

pub fn key(proto: u8) -> FlowKey {
    FlowKey {
        local: POD,
        remote: SERVER,
        local_port: 50_000u16.to_be_bytes(),
        remote_port: 443u16.to_be_bytes(),
        proto,
        pad: [0; 3],
    }
}

/// What the pod sends; its port is kept.
pub fn ask() -> Plain {
    Plain {
        sport: 50_000,
        ..Plain::default()
    }
}

/// The reply as it arrives at the node.
pub fn reply() -> Plain {
    ask().from(US, 50_000).answer()
}

/// As the stack hands it to the uplink.
pub fn routed(packet: Vec<u8>) -> Vec<u8> {
    let mut packet = forwarded(packet);
    packet[..6].copy_from_slice(&GATEWAY_MAC);
    packet
}

impl World {
    pub fn pod_sends(&mut self, packet: &[u8]) -> Outcome {
        self.node.prepare(&[PodTx, UplinkTx]);
        self.node.run(PodTx, packet)
    }

    pub fn leaves(&mut self, packet: Vec<u8>) -> Outcome {
        self.leaves_with(packet, 0)
    }

    pub fn leaves_with(&mut self, packet: Vec<u8>, mark: u32) -> Outcome {
        let packet = routed(packet);
        let run = Run {
            packet: &packet,
            mark,
            came_by: BRIDGE,
            device: UPLINK,
            ..Run::default()
        };
        self.node.run_with(UplinkTx, &run)
    }

    /// From the pod through the stack and out of the uplink.
    pub fn out(&mut self, packet: &[u8]) {
        assert_eq!(self.pod_sends(packet).action, UNSPEC);
        let gone = self.leaves(packet.to_vec());
        assert_eq!(gone.action, UNSPEC);
        assert_checksums(&gone.packet);
        assert_eq!(source(&gone.packet), (US, 50_000));
    }

    /// At the uplink, from the wire.
    pub fn arrives(&mut self, packet: &[u8]) -> Outcome {
        self.node.prepare(&[UplinkSnatRx, PodRx]);
        let mut packet = packet.to_vec();
        packet[..6].copy_from_slice(&UPLINK_MAC);
        let run = Run {
            packet: &packet,
            device: UPLINK,
            ..Run::default()
        };
        self.node.run_with(UplinkSnatRx, &run)
    }

    /// From the uplink through the stack to the pod.
    pub fn back(&mut self, packet: &[u8]) {
        let came = self.arrives(packet);
        assert_eq!(came.action, UNSPEC);
        assert_checksums(&came.packet);
        assert_eq!(self.reaches_pod(&came.packet).action, UNSPEC);
    }

    /// At the pod's port, through the stack from the uplink.
    pub fn reaches_pod(&mut self, packet: &[u8]) -> Outcome {
        let packet = forwarded(packet.to_vec());
        let run = Run {
            packet: &packet,
            came_by: UPLINK,
            ..Run::default()
        };
        self.node.run_with(PodRx, &run)
    }

    pub fn is_fast_out(&mut self, packet: &[u8]) -> bool {
        self.pod_sends(packet).action == REDIRECT
    }

    pub fn is_fast_back(&mut self, packet: &[u8]) -> bool {
        self.arrives(packet).action == REDIRECT
    }

    pub fn verified_udp(&mut self) {
        self.out(&ask().udp());
        self.lasts();
        for _ in 0..2 {
            self.out(&ask().udp());
        }
        self.back(&reply().udp());
    }

    pub fn verified_tcp(&mut self) {
        self.out(&ask().tcp(SYN));
        self.back(&reply().tcp(SYN_ACK));
        self.lasts();
        for _ in 0..2 {
            self.out(&ask().tcp(ACK));
        }
        self.back(&reply().tcp(ACK));
    }

    /// What was opened is no short exchange.
    pub fn lasts(&mut self) {
        self.node.prolong_snat(LASTING);
    }

    pub fn change(&mut self, proto: u8, change: impl FnOnce(&mut Flow)) {
        let mut flow = self.node.flow(&key(proto)).unwrap();
        change(&mut flow);
        self.node.set_flow(&key(proto), &flow);
    }

    pub fn age(&mut self, proto: u8, ticks: u32) {
        self.change(proto, |flow| {
            for half in [&mut flow.tx, &mut flow.rx] {
                half.verified = half.verified.wrapping_sub(ticks) | 1;
                half.probed = earlier(half.probed, ticks);
            }
        });
    }

    pub fn count(&self, program: Program, reason: Reason) -> u64 {
        self.node.count(program, reason).packets
    }
}
