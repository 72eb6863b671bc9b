//! The two hooks at the ends of the stack, as a pair.

use flannel_common::crossing::{Crossing, SLOTS, Seen, place};
use flannel_common::flow::{Direction, FlowKey, Tick};
use flannel_common::header::{Ip, PROTO_TCP, PROTO_UDP, VERSION_IHL};
use flannel_common::transport::{self, L4};

use super::wire::sum;
use crate::bytes::take;

const CPUS: usize = 2;
const FIRST: Tick = u32::MAX - 1_000;

/// What a step does with a packet: bits 0 and 1 the packet, 2 the CPU, 3 the hook, 4 whether it is changed on the way.
#[derive(Clone, Copy)]
struct Step {
    what: u8,
    /// Ticks since the step before.
    wait: u8,
    at: u8,
    bits: u8,
}

/// Packets go into the stack and come out of it, changed or not, on this CPU or another. Whatever is believed went in
/// last on this CPU, was changed in nothing but what is repeated, and repeats to what came out.
pub(super) fn crossing(mut data: &[u8]) {
    let mut packets = Vec::new();
    for _ in 0..4 {
        let (Some(ip), Some(l4)) = (take::<Ip>(&mut data), take::<L4>(&mut data)) else {
            return;
        };
        packets.push((ip, l4));
    }
    let mut notes = [[Crossing {
        at: 0,
        ..bytemuck::Zeroable::zeroed()
    }; SLOTS]; CPUS];
    // What the notes are about.
    let mut inside: [[Option<usize>; SLOTS]; CPUS] = [[None; SLOTS]; CPUS];
    let mut now = FIRST;
    while let Some([what, wait, at, bits]) = take::<[u8; 4]>(&mut data) {
        let step = Step {
            what,
            wait,
            at,
            bits,
        };
        now = now.wrapping_add(u32::from(step.wait) * 8) | 1;
        let (n, cpu) = (usize::from(what & 3), usize::from(what >> 2 & 1));
        let (ip, l4) = packets[n];
        if transport::check_fast(&ip).is_err() {
            continue;
        }
        let seen = Seen {
            ip,
            l4,
            mark: u32::from(at),
            priority: 0,
        };
        let slot = place(&FlowKey::outbound(&ip, &l4), Direction::Tx) as usize;
        if what & 8 == 0 {
            notes[cpu][slot] = Crossing {
                seen,
                device: 7,
                gso_size: u32::from(bits) * 8,
                epoch: 1,
                at: now,
                out: 0,
            };
            inside[cpu][slot] = Some(n);
        } else {
            leaves(&notes[cpu], &inside[cpu], &packets, n, (seen, step), now);
        }
    }
}

fn leaves(
    notes: &[Crossing; SLOTS],
    inside: &[Option<usize>; SLOTS],
    packets: &[(Ip, L4)],
    n: usize,
    (seen, step): (Seen, Step),
    now: Tick,
) {
    let mut bytes: [u8; 44] = bytemuck::must_cast(seen);
    bytes[8] = bytes[8].wrapping_sub(1);
    if step.what & 16 != 0 {
        bytes[usize::from(step.at) % bytes.len()] ^= step.bits;
    }
    let after: Seen = bytemuck::must_cast(bytes);
    let slot = place(&FlowKey::outbound(&after.ip, &after.l4), Direction::Tx) as usize;
    let note = &notes[slot];
    let Some(change) = note.change(&after, now) else {
        let is_itself = inside[slot] == Some(n) && step.what & 16 == 0;
        assert!(!is_itself || now.wrapping_sub(note.at) > 900, "{note:?}");
        return;
    };
    let entered = inside[slot].expect("nothing went in");
    let (ip, l4) = packets[entered];
    assert!(now.wrapping_sub(note.at) < 1_000);
    assert_eq!(ip.version_ihl, VERSION_IHL);
    assert!(ip.proto == PROTO_TCP || ip.proto == PROTO_UDP);
    assert_eq!(
        FlowKey::outbound(&ip, &l4),
        FlowKey::outbound(&after.ip, &after.l4)
    );
    assert!(change.is_of(&ip, note.seen.mark));
    let repeated = change.hop(&ip);
    assert_eq!((repeated.tos, repeated.ttl), (after.ip.tos, after.ip.ttl));
    assert_eq!(
        (repeated.id, repeated.fragment),
        (after.ip.id, after.ip.fragment)
    );
    assert_eq!((change.mark, change.priority), (after.mark, after.priority));
    // The checksum of the header is as right as it was.
    assert_eq!(
        sum(bytemuck::bytes_of(&repeated)),
        sum(bytemuck::bytes_of(&ip))
    );
}
