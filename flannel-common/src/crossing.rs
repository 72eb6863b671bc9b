//! One packet on its way through the stack: what the hook before it saw, and what the hook behind it makes of that.
//!
//! From one hook to the other a CPU works on one packet (softirq, run to completion). So the hook before writes down
//! what it sees, in memory of that CPU, and the hook behind believes what comes out only if it is *this packet*. What it
//! finds changed is what the stack does with the flow. Whatever breaks the chain (a queue to user space, another CPU,
//! reassembly, a second frame made to look alike) comes out without a note, or with somebody else's, and shows nothing.

use bytemuck::{Pod, Zeroable};

pub use crate::change::Change;
use crate::ecn;
use crate::flow::{Direction, FlowKey};
use crate::header::{Ip, PROTO_UDP};
use crate::tick::{Tick, ticks};
use crate::transport::L4;

/// A packet takes no longer than this from the hook before the stack to the one behind it, however busy the CPU is.
pub const LONGEST: Tick = ticks(1_000);

/// Notes a CPU has for each direction. A batch from GRO passes the hook before as a whole, and only then enters the
/// stack (`netif_receive_skb_list`): one note would be about its last packet. So each flow has its place, as far as it goes.
const PLACES: u32 = 16;

/// Entries of [`crate::maps::SLOT`].
pub const SLOTS: usize = 2 * PLACES as usize;

/// TCP's push flag: when a packet is cut into segments, only the last one keeps it.
const PUSH: [u8; 4] = [0, 0x08, 0, 0];
/// UDP's checksum, in the word it shares with the length. What a pod sends leaves it to the hardware, and it is summed up
/// wherever a device on the way cannot do that (the bridge, for what comes out of the tunnel); a translation changes it, too.
const UDP_CHECK: [u8; 4] = [0, 0, 0xff, 0xff];
const TCP_DOFF: usize = 12;

/// A packet at a hook: what of it rules can see and write, but for the payload.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Seen {
    pub ip: Ip,
    /// Ports, and of TCP sequence, acknowledgement, flags and window; of UDP length, checksum and payload.
    pub l4: L4,
    /// netfilter's mark.
    pub mark: u32,
    /// Traffic class (`skb->priority`), that a queueing discipline may go by.
    pub priority: u32,
}

/// The note: a packet before the stack.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Crossing {
    pub seen: Seen,
    /// ifindex of the device at whose hook it was seen: what the stack received it on.
    pub device: u32,
    /// Payload of each segment it stands for; 0: one packet. Above 64 KiB there is none in IPv4.
    pub gso_size: u32,
    /// The epoch before the stack: a proof is never newer than its facts.
    pub epoch: u32,
    /// When; 0: no note.
    pub at: Tick,
    /// ifindex of the device where it came out; 0: it has not.
    pub out: u32,
}

/// Where the note about a flow's packet lies.
#[inline(always)]
pub const fn place(key: &FlowKey, direction: Direction) -> u32 {
    let [a, b, c, d]: [u32; 4] = bytemuck::must_cast(*key);
    let mixed = a ^ b ^ c ^ d;
    let mixed = mixed ^ (mixed >> 16);
    let mixed = mixed ^ (mixed >> 8);
    let mixed = (mixed ^ (mixed >> 4)) & (PLACES - 1);
    match direction {
        Direction::Tx => mixed,
        Direction::Rx => mixed | PLACES,
    }
}

impl Crossing {
    /// What the stack changed, if `after` is the packet of this note, or the first of the segments that it was cut into.
    #[inline(always)]
    pub fn change(&self, after: &Seen, now: Tick) -> Option<Change> {
        let is_fresh = self.at != 0 && now.wrapping_sub(self.at) < LONGEST;
        if self.difference(after) != 0 || !is_fresh {
            return None;
        }
        Some(Change {
            mark_in: self.seen.mark,
            mark: after.mark,
            priority: after.priority,
            tos_in: self.seen.ip.tos,
            tos: after.ip.tos,
            ttl_in: self.seen.ip.ttl,
            pad: 0,
        })
    }

    /// 0 if it is the same packet one hop further. By words, and with one branch at the end.
    #[inline(always)]
    fn difference(&self, after: &Seen) -> u32 {
        let (old, new) = (&self.seen.ip, &after.ip);
        let is_cut = self.gso_size != 0 && new.total_len != old.total_len;
        let (length, loose_flags) = if is_cut {
            (self.segment(), u32::from_ne_bytes(PUSH))
        } else {
            (old.total_len, 0)
        };
        let loose_check = match old.proto {
            PROTO_UDP => u32::from_ne_bytes(UDP_CHECK),
            _ => 0,
        };
        let ip: [u32; 5] = bytemuck::must_cast(*old);
        let ip_now: [u32; 5] = bytemuck::must_cast(*new);
        let l4: [u32; 4] = bytemuck::must_cast(self.seen.l4);
        let l4_now: [u32; 4] = bytemuck::must_cast(after.l4);
        // Id and fragment, source, destination. The header's checksum follows from the rest.
        (ip[1] ^ ip_now[1])
            | (ip[3] ^ ip_now[3])
            | (ip[4] ^ ip_now[4])
            | pair(
                [old.version_ihl, old.tos & ecn::MASK],
                [new.version_ihl, new.tos & ecn::MASK],
            )
            | pair(length, new.total_len)
            | pair([old.ttl.wrapping_sub(1), old.proto], [new.ttl, new.proto])
            | (l4[0] ^ l4_now[0])
            | ((l4[1] ^ l4_now[1]) & !loose_check)
            | (l4[2] ^ l4_now[2])
            | ((l4[3] ^ l4_now[3]) & !loose_flags)
    }

    /// Length of the first segment.
    #[inline(always)]
    fn segment(&self) -> [u8; 2] {
        const IP_LEN: u32 = 20;
        let tcp_len = u32::from(self.seen.l4[TCP_DOFF] >> 4) * 4;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a segment of IPv4 is shorter; else it equals no packet"
        )]
        let len = (IP_LEN + tcp_len + self.gso_size) as u16;
        len.to_be_bytes()
    }
}

/// Not 0 if they differ.
#[inline(always)]
const fn pair(a: [u8; 2], b: [u8; 2]) -> u32 {
    (u16::from_ne_bytes(a) ^ u16::from_ne_bytes(b)) as u32
}

const _: () = assert!(size_of::<Crossing>() == 64);

#[cfg(test)]
mod tests;
