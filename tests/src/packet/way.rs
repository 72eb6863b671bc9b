//! The ways through the stack between pods, packet by packet: what goes in, and what comes out.

use flannel_common::program::Program::{
    self, DirectRx, DirectTx, OverlayRx, OverlayTx, PodRx, PodTx, UplinkRx,
};
use flannel_common::reason::Reason;

use super::world::{BRIDGE, UPLINK};
use super::{Fixture, Inner, Node, Run, UNSPEC, vxlan};
use crate::wait::{SOON, eventually};

/// A packet that went past the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fast {
    /// The frame, without outer headers.
    pub packet: Vec<u8>,
    /// Mark and traffic class.
    pub class: (u32, u32),
}

/// A node with a peer behind the tunnel, and one that is reached without.
pub fn node_with_both() -> Fixture {
    Node::default().load_among_peers()
}

/// What a packet passes before the stack and behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Out,
    OutDirectly,
    In,
    InDirectly,
}

pub const WAYS: [Way; 4] = [Way::Out, Way::OutDirectly, Way::In, Way::InDirectly];

impl Way {
    /// As it goes into the stack.
    pub fn before(self) -> Inner {
        match self {
            Self::Out => Inner::from_pod(),
            Self::OutDirectly => Inner {
                dst: [10, 244, 3, 7],
                ..Inner::from_pod()
            },
            Self::In => Inner::inbound(),
            Self::InDirectly => Inner {
                src: [10, 244, 3, 7],
                dst_mac: [0; 6],
                ..Inner::inbound()
            },
        }
    }

    /// As it comes out.
    pub fn after(self) -> Inner {
        let before = self.before();
        Inner {
            ttl: before.ttl - 1,
            ..match self {
                Self::Out | Self::OutDirectly => Inner {
                    dst: before.dst,
                    ..Inner::outbound()
                },
                Self::In | Self::InDirectly => Inner {
                    src: before.src,
                    ..Inner::to_pod()
                },
            }
        }
    }

    /// Its programs: before the stack, and behind it.
    fn programs(self) -> [Program; 2] {
        match self {
            Self::Out => [PodTx, OverlayTx],
            Self::OutDirectly => [PodTx, DirectTx],
            Self::In => [OverlayRx, PodRx],
            Self::InDirectly => [DirectRx, PodRx],
        }
    }

    /// At the hook before the stack, with which it has to stay.
    pub fn goes_in(self, node: &mut Fixture, packet: &[u8], mark: u32) {
        let [program, behind] = self.programs();
        node.prepare(&[program, behind]);
        let run = Run {
            packet,
            mark,
            ..Run::default()
        };
        assert_eq!(node.run_with(program, &run).action, UNSPEC);
    }

    /// At the hook behind it.
    pub fn comes_out(self, node: &mut Fixture, packet: &[u8]) {
        let run = Run {
            packet,
            ..Run::default()
        };
        self.comes_out_as(node, &run);
    }

    /// The same with another mark, say.
    pub fn comes_out_as(self, node: &mut Fixture, run: &Run<'_>) {
        let [_, program] = self.programs();
        let (came_by, device) = match self {
            Self::Out => (0, 0),
            Self::OutDirectly => (BRIDGE, UPLINK),
            Self::In | Self::InDirectly => (Node::FLANNEL, 0),
        };
        let run = Run {
            came_by,
            device,
            ..run.clone()
        };
        node.run_with(program, &run);
    }

    /// The packet that went in proves its flow here, too: so it was for what it was that another proved nothing. A note is good for
    /// a second, and a machine may stand still as long.
    #[track_caller]
    pub fn is_proven_by_the_true_one(self, node: &mut Fixture) {
        eventually(format!("{self:?} is proven"), SOON, || {
            self.goes_in(node, &self.before().udp(), 0);
            self.comes_out(node, &self.after().udp());
            self.is_fast(node)
        });
    }

    /// Sends one more. `None`: it takes the stack.
    pub fn fast(self, node: &mut Fixture, packet: &[u8], mark: u32) -> Option<Fast> {
        let (program, packet) = match self {
            Self::Out | Self::OutDirectly => (PodTx, packet.to_vec()),
            Self::In => (UplinkRx, vxlan(packet)),
            Self::InDirectly => (DirectRx, packet.to_vec()),
        };
        let run = Run {
            packet: &packet,
            mark,
            ..Run::default()
        };
        let fast = [Reason::FastTx, Reason::FastRx];
        let count = |node: &Fixture| fast.map(|reason| node.count(program, reason).packets);
        let before = count(node);
        let out = node.run_with(program, &run);
        let inner = match self {
            Self::Out => out.packet.get(50..).unwrap_or_default().to_vec(),
            _ => out.packet,
        };
        (count(node) != before).then_some(Fast {
            packet: inner,
            class: (out.mark, out.priority),
        })
    }

    /// Whether the next UDP packet goes past the stack.
    pub fn is_fast(self, node: &mut Fixture) -> bool {
        self.fast(node, &self.before().udp(), 0).is_some()
    }
}
