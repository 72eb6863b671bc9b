//! Packets as they may come, and what may have happened to them on the way.

use flannel_tests::packet::Node;
use flannel_tests::packet::way::{WAYS, Way};
use flannel_tests::packet::world::{BRIDGE, UPLINK};

use super::frame::{Frame, IP, L4, PROTO_UDP, is_out};
use super::model::Shown;
use super::random::Random;

/// A test run's device: `flannel.<VNI>`, and a pod's port.
pub(crate) const LOOPBACK: u32 = Node::FLANNEL;
const TCP_FLAGS: usize = L4 + 13;

/// One flow, by the tunnel or without, as both directions show it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Talk {
    pub(crate) is_direct: bool,
    pub(crate) proto: u8,
    pub(crate) port: u16,
}

impl Talk {
    pub(crate) fn way(self, is_out: bool) -> Way {
        WAYS.into_iter()
            .find(|way| {
                let is_direct = matches!(way, Way::OutDirectly | Way::InDirectly);
                super::frame::is_out(*way) == is_out && is_direct == self.is_direct
            })
            .expect("one of the four")
    }

    /// A packet at the hook before the stack.
    pub(crate) fn packet(self, way: Way, random: &mut Random) -> Shown {
        let mut frame = Frame::of(way, self.proto, self.port);
        frame.set(IP + 4, &random.bytes::<2>());
        frame.set(L4 + 8, &random.bytes::<4>());
        if random.percent(15) {
            frame.set(IP + 1, &[random.one_of(&[0xb8, 0x20, 2, 1])]);
        }
        if self.proto != PROTO_UDP {
            frame.set(L4 + 4, &random.bytes::<4>());
            if random.percent(8) {
                // SYN, its answer, FIN and RST, and what is none of them.
                frame.set(
                    TCP_FLAGS,
                    &[random.one_of(&[0x02, 0x12, 0x11, 0x04, 0x14, 0x00])],
                );
            }
        }
        if random.percent(4) {
            let (at, byte) =
                random.one_of(&[(0, 0x46), (6, 0x20), (6, 0x40), (7, 1), (8, 1), (8, 2)]);
            frame.set(IP + at, &[byte]);
        }
        frame.seal();
        let is_of_another_pod = is_out(way) && random.percent(10);
        Shown {
            frame,
            mark: if random.percent(10) { 5 } else { 0 },
            priority: random.one_of(&[0, 0, 6]),
            device: if is_of_another_pod { BRIDGE } else { LOOPBACK },
            came_by: 0,
            cpu: 0,
        }
    }
}

/// The packet as the stack lets it out: one hop further, with what a rule wrote, if there is one.
pub(crate) fn routed(way: Way, before: &Shown, random: &mut Random) -> Shown {
    let writes = random.percent(20);
    let dscp = if writes {
        random.one_of(&[0xb8, 0x28, 0])
    } else {
        before.frame.tos()
    };
    let mut frame = before.frame.hop(dscp);
    let macs = way.after();
    frame.set(0, &macs.dst_mac);
    frame.set(6, &macs.src_mac);
    let (came_by, device) = match way {
        Way::Out => (0, LOOPBACK),
        Way::OutDirectly => (BRIDGE, UPLINK),
        Way::In | Way::InDirectly => (LOOPBACK, LOOPBACK),
    };
    Shown {
        frame,
        mark: if writes {
            random.one_of(&[0, 7])
        } else {
            before.mark
        },
        priority: random.one_of(&[before.priority, before.priority, 0x1_0010]),
        device,
        came_by,
        cpu: before.cpu,
    }
}

/// Something else happens to it than a hop.
pub(crate) fn damage(way: Way, shown: &mut Shown, random: &mut Random) {
    let frame = &mut shown.frame;
    match random.below(8) {
        // Any byte that a hook sees: addresses, ports, id, TTL, sequence, checksums.
        0..=2 => {
            let at = IP + random.below(36);
            let bits = 1 << random.below(8);
            frame.0[at] ^= bits;
        }
        3 => {
            let at = IP + random.below(36);
            let [byte] = random.bytes();
            frame.0[at] = byte;
        }
        // Never passed a hop, or two.
        4 => {
            let ttl = random.one_of(&[frame.ttl().wrapping_add(1), frame.ttl().wrapping_sub(1)]);
            frame.set(IP + 8, &[ttl]);
            frame.seal();
        }
        // Translated.
        5 => {
            let at = random.one_of(&[IP + 12, IP + 16, L4, L4 + 2]);
            frame.set(at + 1, &random.bytes::<1>());
            frame.seal();
        }
        6 => frame.set(
            0,
            &random.one_of(&[[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [2, 0, 0, 0, 0, 0x77]]),
        ),
        _ => match way {
            // Made by a pod, by the node; out of another port.
            Way::In | Way::InDirectly => {
                if random.percent(50) {
                    shown.came_by = random.one_of(&[BRIDGE, 0]);
                } else {
                    shown.device = random.one_of(&[BRIDGE, UPLINK]);
                }
            }
            Way::Out | Way::OutDirectly => shown.mark ^= 0x100,
        },
    }
}
