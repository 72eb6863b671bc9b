//! Which RST, FIN and SYN of a TCP connection is believed: those of somebody who sees the connection, and not those that
//! anybody forges who knows addresses and ports.
//!
//! Evidence counts that takes both sides. What a side sent is known once the other side acknowledged exactly that much
//! ([`Side::AGREED`]); from then on its segments carry that on, and acknowledgements of what was never sent count nothing.

use bytemuck::{Pod, Zeroable};

use super::Seen;

/// Bytes by which a segment may end behind all that its side sent before: four of the longest packets. Segments may have been
/// lost on the way to the node, whose repetition needs not pass before the end. A forger hits that one time in 16,384.
pub const LEAP: u32 = 1 << 18;

/// What one side of a TCP connection said.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct Side {
    /// Sequence number behind the last byte that it sent; SYN and FIN count one.
    pub end: u32,
    /// Its highest acknowledgement: what it expects. Means something where both sides are [`Side::AGREED`].
    pub next: u32,
    /// Sequence number behind a segment that the other side has still to say something to: one of the last three marks tells which.
    pub asked: u32,
    /// [`Side::NOTED`] and so on.
    pub marks: u32,
}

impl Side {
    /// `end` is there, though perhaps forged.
    pub const NOTED: u32 = 1;
    /// The other side said so, too.
    pub const AGREED: u32 = 2;
    /// A FIN ends at `end`. The other side has not acknowledged it yet, or [`Seen::FIN`] tells.
    pub const FIN: u32 = 4;
    /// A SYN although the connection goes on.
    pub const ASKED: u32 = 8;
    /// What begins where the other side is: a FIN, or data again.
    pub const WAITS: u32 = 16;
    /// What lies elsewhere than `end` says, and acknowledges all that the other side sent.
    pub const STRAYS: u32 = 32;

    /// After the first segment of a side.
    #[inline(always)]
    pub const fn new(segment: &Segment, bits: u8) -> Self {
        Self {
            end: segment.end,
            next: 0,
            asked: 0,
            marks: Self::NOTED | ((bits & Seen::FIN) as u32 * Self::FIN),
        }
    }

    /// Whether what it said last, and not for the first time or as its last word, has not been acknowledged by `other`.
    #[inline(always)]
    pub const fn waits_for(&self, other: &Self) -> bool {
        self.marks & Self::WAITS != 0
            && self.marks & other.marks & Self::AGREED != 0
            && other.next.wrapping_sub(self.asked) & BEHIND != 0
    }

    /// What [`place`] says of `asked`.
    const PLACED: u32 = Self::WAITS | Self::STRAYS;

    pub const NONE: Self = Self {
        end: 0,
        next: 0,
        asked: 0,
        marks: 0,
    };
}

/// Where in its stream a TCP segment lies. Of other protocols, and of a segment whose header is not true, anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    pub seq: u32,
    pub ack: u32,
    /// Behind its last byte; SYN and FIN count one.
    pub end: u32,
}

impl Segment {
    pub const NONE: Self = Self {
        seq: 0,
        ack: 0,
        end: 0,
    };

    /// Of the first 14 bytes of a TCP header; `len` is that of the packet from there on, bytes.
    #[inline(always)]
    pub const fn new(header: &[u8; 14], len: u32) -> Self {
        let h = header;
        let seq = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
        let ack = u32::from_be_bytes([h[8], h[9], h[10], h[11]]);
        let (words, flags) = ((h[12] >> 4) as u32, h[13] as u32);
        let control = has(flags, Seen::FIN as u32) + has(flags, Seen::SYN as u32);
        let end = seq.wrapping_add(len).wrapping_sub(words * 4);
        Self {
            seq,
            ack,
            end: end.wrapping_add(control),
        }
    }
}

/// A segment, the side that sent it, and the other; all of it before and after [`judge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Talk {
    pub own: Side,
    pub other: Side,
    pub segment: Segment,
    /// Before: the segment's, as in [`super::Packet`]. After: those of them that are believed; 0 if the segment changes nothing,
    /// not even when the flow was last seen.
    pub bits: u32,
    /// Before: 1 if a SYN begins another connection, as this one is closing. After: 1 if it does.
    pub reopens: u32,
    /// After: 1 if `other` is another one than before.
    pub tells_other: u32,
    /// After: 1 if the other side's FIN is acknowledged.
    pub ends_other: u32,
    /// After: 1 if the other side's SYN, which was not believed, is answered. Both sides have begun another connection.
    pub anew: u32,
}

impl Talk {
    #[inline(always)]
    pub const fn new(own: Side, other: Side, segment: Segment, bits: u8, reopens: u32) -> Self {
        Self {
            own,
            other,
            segment,
            bits: bits as u32,
            reopens,
            tells_other: 0,
            ends_other: 0,
            anew: 0,
        }
    }
}

/// 1 if it is not 0, and else 0, without a branch: each would double the paths that the verifier follows.
#[inline(always)]
const fn nonzero(x: u32) -> u32 {
    ((x as u64 + u32::MAX as u64) >> 32) as u32
}

#[inline(always)]
const fn same(a: u32, b: u32) -> u32 {
    nonzero(a ^ b) ^ 1
}

/// `a` if `which` is 1, `b` if it is 0.
#[inline(always)]
const fn pick(which: u32, a: u32, b: u32) -> u32 {
    b ^ (a ^ b) & which.wrapping_neg()
}

/// Whether one of these bits, which is a power of two, is set: 1 or 0.
#[inline(always)]
const fn has(bits: u32, bit: u32) -> u32 {
    bits >> bit.trailing_zeros() & 1
}

/// What makes a SYN something else than the first segment of a connection.
const NO_SYN: u32 = (Seen::RST | Seen::ACK) as u32;
/// What carries nothing on.
const CONTROL: u32 = (Seen::RST | Seen::SYN) as u32;
/// Set in the distance to a sequence number that lies behind.
const BEHIND: u32 = 1 << 31;

/// Where one segment lies, before it is [judged](judge): whether its side waits for the other, and whether a side whose end is not
/// known any more is found again.
///
/// * Who says once more what begins exactly where the other side is, or ends there, waits. Only those know that number who see
///   the connection, as with a reset; so nobody else makes its time shorter.
/// * A side is lost when too much was lost ahead of the node. It is found where it says it is, in a segment that acknowledges
///   exactly what the other side sent, and where the other side acknowledges exactly that.
///
/// Most segments carry on where the last one ended: `None`. Else both sides, and 1 if `other` is another one than before.
#[inline(always)]
pub const fn place(
    own: Side,
    other: Side,
    segment: Segment,
    bits: u8,
) -> Option<(Side, Side, u32)> {
    let bits = bits as u32;
    let fin = has(bits, Seen::FIN as u32);
    let marks = own.marks & Side::PLACED | other.marks & Side::STRAYS;
    // In one word: two conditions are two paths through all that follows.
    if segment.seq ^ own.end | fin | marks == 0 {
        return None;
    }
    let agreed = nonzero(own.marks & other.marks & Side::AGREED);
    let goes_on = agreed & (nonzero(bits & CONTROL) ^ 1);

    let finds = goes_on & has(other.marks, Side::STRAYS) & same(segment.ack, other.asked);
    let found = Side {
        end: pick(finds, segment.ack, other.end),
        marks: other.marks & !(finds * Side::PLACED),
        ..other
    };

    let ahead = segment.end.wrapping_sub(own.end);
    let far = nonzero(ahead.wrapping_sub(1) / LEAP);
    // An acknowledgement alone, which nobody answers, ends where it begins: see `waits_for`.
    let waits = goes_on & same(segment.seq, other.next) & (fin | far);
    let elsewhere = far & (fin | nonzero(ahead & BEHIND) ^ 1);
    let strays = goes_on & elsewhere & same(segment.ack, other.end);
    let marks = (waits * Side::WAITS) | (strays * Side::STRAYS) | ((strays & fin) * Side::FIN);
    let placed = Side {
        asked: pick(waits | strays, segment.end, own.asked),
        marks: own.marks & !(goes_on * Side::PLACED) | marks,
        ..own
    };
    Some((placed, found, finds))
}

/// Judges one segment.
///
/// * A reset has to be what hosts send, and believe (RFC 9293 section 3.10.7.4, RFC 5961 section 3.2): exactly what is
///   expected by the acknowledgements; or behind data that is under way, which a forger may have moved, and with an
///   acknowledgement that fits (Linux' own resets have one). Where nobody knows, an answer to exactly what the other side sent.
/// * A FIN is believed once it is acknowledged: of a forged one the other side knows nothing.
/// * A SYN in the middle of a connection changes nothing: the other side says that the connection goes on, and a true one is
///   followed by a reset (RFC 5961 section 4.2). If it is answered the connection was forgotten by both sides.
/// * Before both sides agree, what a segment says is overwritten by the next: forged ones do not stay.
#[inline(always)]
pub const fn judge(talk: &mut Talk) {
    let (own, other, segment, bits) = (talk.own, talk.other, talk.segment, talk.bits);
    let [fin, syn, rst, ack] = [
        has(bits, Seen::FIN as u32),
        has(bits, Seen::SYN as u32),
        has(bits, Seen::RST as u32),
        has(bits, Seen::ACK as u32),
    ];
    let agreed = nonzero(own.marks & other.marks & Side::AGREED);
    // It acknowledges all that the other side sent; or a SYN in the middle.
    let meets = ack & has(other.marks, Side::NOTED) & same(segment.ack, other.end);
    let answers = ack & has(other.marks, Side::ASKED) & same(segment.ack, other.asked);

    let left = other.end.wrapping_sub(segment.ack);
    let forward = segment.ack.wrapping_sub(own.next);
    // It acknowledges what it may: no less than before, and no more than the other side sent.
    let understands = ack & (nonzero((left | forward) & BEHIND) ^ 1);
    let expected = same(segment.seq, other.next) | same(segment.seq, own.end) & understands;
    let reset = rst & (agreed & expected | (agreed ^ 1) & meets | answers);
    let reopens = talk.reopens & syn & (nonzero(bits & NO_SYN) ^ 1);
    let asks = agreed & syn & ((rst | reopens) ^ 1);
    let anew = asks & answers;
    // The repetition of the connection's own SYN is none.
    let asked = asks & (ack ^ 1) & nonzero(segment.end ^ own.end);
    let goes_on = agreed & ((rst | syn) ^ 1);
    let begins = (agreed | rst) ^ 1 | reopens;
    let agrees = begins & meets;

    let ahead = segment.end.wrapping_sub(own.end);
    let carries_on = goes_on & (nonzero(ahead.wrapping_sub(1) / LEAP) ^ 1);
    // Behind a FIN there is no more data.
    let repeats = goes_on & (nonzero(ahead) ^ 1) & nonzero(segment.seq ^ segment.end);
    let acknowledges = goes_on & understands;

    let ends = carries_on | repeats | begins;
    let mut marks = own.marks & !(ends * Side::FIN) | ((ends & fin) * Side::FIN);
    marks = marks & !((goes_on * Side::ASKED) | (asked * Side::PLACED)) | (asked * Side::ASKED);
    let first = Side::NOTED | (fin * Side::FIN) | (agrees * Side::AGREED);
    marks = pick(begins, first, marks);
    let both = Side::NOTED | Side::AGREED;
    talk.own = Side {
        end: pick(carries_on | begins | anew, segment.end, own.end),
        next: pick(acknowledges | agrees | anew, segment.ack, own.next),
        asked: pick(asked, segment.end, own.asked),
        marks: pick(anew, both, marks),
    };
    talk.other = Side {
        end: pick(anew, segment.ack, other.end),
        next: pick(agrees | anew, segment.seq, other.next),
        asked: other.asked,
        marks: pick(
            reopens,
            0,
            pick(anew, both, other.marks | (agrees * Side::AGREED)),
        ),
    };
    talk.reopens = reopens;
    talk.tells_other = agrees | anew | reopens;
    talk.anew = anew;
    let (own, other) = (talk.own, talk.other);
    let known = goes_on | agrees;
    talk.ends_other = known & has(other.marks, Side::FIN) & same(own.next, other.end);
    let ended = known & has(own.marks, Side::FIN) & same(other.next, own.end);
    let shown = bits & !(Seen::FIN as u32) | (ended * Seen::FIN as u32);
    talk.bits = ((reset | anew) * bits) | ((goes_on | begins) * shown);
}

#[cfg(test)]
mod tests;
