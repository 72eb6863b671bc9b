//! Packets as they may come, and what may have happened to them on the way.

use flannel_tests::packet::world::{BRIDGE, UPLINK};

use super::frame::{Frame, IP, L4, PROTO_UDP};
use super::model::Shown;
use super::path::{Link, Path};
use super::random::Random;

const TCP_FLAGS: usize = L4 + 13;

/// One flow, as both directions show it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Talk {
    pub(crate) link: Link,
    pub(crate) proto: u8,
    pub(crate) port: u16,
}

impl Talk {
    pub(crate) fn path(self, is_out: bool) -> Path {
        Path {
            link: self.link,
            is_out,
        }
    }

    /// A packet at the hook before the stack.
    pub(crate) fn packet(self, path: Path, random: &mut Random) -> Shown {
        // Any route takes the first; of the second only the stack knows.
        let payload = if random.percent(8) { 700 } else { 32 };
        let mut frame = Frame::of(path, self.proto, self.port, payload);
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
        let is_of_another_pod = path.is_out && random.percent(10);
        Shown {
            frame,
            mark: if random.percent(10) { 5 } else { 0 },
            priority: random.one_of(&[0, 0, 6]),
            device: if is_of_another_pod {
                BRIDGE
            } else {
                path.enters_by()
            },
            came_by: 0,
            cpu: 0,
        }
    }
}

/// The packet as the stack lets it out: one hop further, with what a rule wrote, if there is one.
pub(crate) fn routed(path: Path, before: &Shown, random: &mut Random) -> Shown {
    let writes = random.percent(20);
    let dscp = if writes {
        random.one_of(&[0xb8, 0x28, 0])
    } else {
        before.frame.tos()
    };
    let mut frame = before.frame.hop(dscp);
    frame.set(0, &path.macs_after().concat());
    let (came_by, device) = path.leaves_by();
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
pub(crate) fn damage(path: Path, shown: &mut Shown, random: &mut Random) {
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
        _ if path.is_out => shown.mark ^= 0x100,
        // Made by a pod, by the node; out of another port.
        _ if random.percent(50) => shown.came_by = random.one_of(&[BRIDGE, 0]),
        _ => shown.device = random.one_of(&[BRIDGE, UPLINK]),
    }
}
