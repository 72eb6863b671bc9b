//! The ways through the stack: to other nodes' pods and to the outside, and back.

use flannel_common::program::Program::{
    self, DirectRx, DirectTx, OverlayRx, OverlayTx, PodRx, PodTx, UplinkRx, UplinkSnatRx, UplinkTx,
};
use flannel_common::reason::Reason;
use flannel_tests::packet::outside::SERVER;
use flannel_tests::packet::way::Way;
use flannel_tests::packet::world::{BRIDGE, GATEWAY_MAC, UPLINK, UPLINK_MAC};
use flannel_tests::packet::{Inner, Node};

/// What is between the pod and whom it talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Tunnel,
    Direct,
    /// The node's own address, by source NAT.
    Outside,
}

const LINKS: [Link; 3] = [Link::Tunnel, Link::Direct, Link::Outside];

/// One direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) link: Link,
    pub(crate) is_out: bool,
}

/// A test run's device: `flannel.<VNI>`, and a pod's port.
pub(crate) const LOOPBACK: u32 = Node::FLANNEL;

impl Path {
    pub(crate) const COUNT: usize = 2 * LINKS.len();

    /// Below [`Path::COUNT`].
    pub(crate) fn number(self) -> usize {
        let link = LINKS.iter().position(|link| *link == self.link);
        2 * link.expect("one of them") + usize::from(self.is_out)
    }

    /// As a packet goes into the stack: to the outside and from there, as rules see it.
    pub(crate) fn before(self) -> Inner {
        match (self.between_pods(), self.is_out) {
            (Some(way), _) => way.before(),
            (None, true) => Inner {
                dst: SERVER,
                ..Inner::from_pod()
            },
            (None, false) => Inner {
                src: SERVER,
                src_mac: GATEWAY_MAC,
                dst_mac: UPLINK_MAC,
                ..Inner::inbound()
            },
        }
    }

    /// Destination and source MAC of what comes out.
    pub(crate) fn macs_after(self) -> [[u8; 6]; 2] {
        let after = match (self.between_pods(), self.is_out) {
            (Some(way), _) => way.after(),
            (None, true) => return [GATEWAY_MAC, UPLINK_MAC],
            (None, false) => Way::InDirectly.after(),
        };
        [after.dst_mac, after.src_mac]
    }

    fn between_pods(self) -> Option<Way> {
        Some(match (self.link, self.is_out) {
            (Link::Tunnel, true) => Way::Out,
            (Link::Tunnel, false) => Way::In,
            (Link::Direct, true) => Way::OutDirectly,
            (Link::Direct, false) => Way::InDirectly,
            (Link::Outside, _) => return None,
        })
    }

    /// Device of the hook before the stack, for what is no other pod's.
    pub(crate) const fn enters_by(self) -> u32 {
        match (self.link, self.is_out) {
            (Link::Outside, false) => UPLINK,
            _ => LOOPBACK,
        }
    }

    /// Of the hook behind it: by which device the stack received the packet, and where it is.
    pub(crate) const fn leaves_by(self) -> (u32, u32) {
        match (self.link, self.is_out) {
            (Link::Tunnel, true) => (0, LOOPBACK),
            (_, true) => (BRIDGE, UPLINK),
            (_, false) => (self.enters_by(), LOOPBACK),
        }
    }

    /// The neighbour to whom what leaves without a tunnel is sent.
    pub(crate) const fn neighbour(self) -> Option<[u8; 6]> {
        match (self.link, self.is_out) {
            (Link::Direct, true) => Some(UPLINK_MAC),
            (Link::Outside, true) => Some(GATEWAY_MAC),
            _ => None,
        }
    }

    /// At the hook before the stack.
    pub(crate) const fn program_before(self) -> Program {
        match (self.link, self.is_out) {
            (_, true) => PodTx,
            (Link::Tunnel, false) => UplinkRx,
            (Link::Direct, false) => DirectRx,
            (Link::Outside, false) => UplinkSnatRx,
        }
    }

    /// Who counts what goes past the stack, and as what.
    pub(crate) const fn counts_fast(self) -> (Program, Reason) {
        match (self.link, self.is_out) {
            (_, true) => (PodTx, Reason::FastTx),
            (Link::Tunnel, false) => (UplinkRx, Reason::FastRx),
            (Link::Direct, false) => (DirectRx, Reason::FastRx),
            (Link::Outside, false) => (Program::OutsideRx, Reason::FastRx),
        }
    }

    pub(crate) const fn program_behind(self) -> Program {
        match (self.link, self.is_out) {
            (_, false) => PodRx,
            (Link::Tunnel, true) => OverlayTx,
            (Link::Direct, true) => DirectTx,
            (Link::Outside, true) => UplinkTx,
        }
    }
}

/// All of them, and what takes over between two.
pub(crate) const PROGRAMS: [Program; 9] = [
    PodTx,
    OverlayTx,
    DirectTx,
    UplinkTx,
    UplinkRx,
    OverlayRx,
    DirectRx,
    UplinkSnatRx,
    PodRx,
];
