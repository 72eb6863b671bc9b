//! Who opened a flow: conntrack is to see that one first.

use super::{Direction, Flow, REFRESH};
use crate::header::PROTO_UDP;
use crate::tick::{Tick, ticks};
use crate::transport::{L4, is_answer};

/// So soon behind who opened, who answers is looked at as well; or so long after it was due, where that one is silent.
const PATIENCE: Tick = ticks(1_000);
/// After so long a silence whoever speaks first is taken for who opens: conntrack has forgotten a flow without a handshake by then
/// (`nf_conntrack_udp_timeout_stream`).
pub(super) const FORGOTTEN: Tick = ticks(120_000);

/// Values of [`Flow::opener`]: not known; the pod of this node; the other end.
pub const NOBODY: u8 = 0;
pub const POD: u8 = 1;
pub const PEER: u8 = 2;

/// Who opened the flow of which this is the first packet that is proven: whoever sent it, or got an answer by it. Of a TCP flow that is
/// found under way nobody knows.
#[inline(always)]
#[must_use]
pub const fn opener(proto: u8, l4: &L4, direction: Direction) -> u32 {
    let (sender, receiver) = match direction {
        Direction::Tx => (POD, PEER),
        Direction::Rx => (PEER, POD),
    };
    let opener = match (proto, is_answer(l4)) {
        (PROTO_UDP, _) => sender,
        (_, true) => receiver,
        (_, false) => NOBODY,
    };
    opener as u32
}

impl Flow {
    /// Who opened the flow, if `opener` is who speaks first. Ahead of [`Self::note_proof`].
    #[inline(always)]
    pub const fn note_opener(&mut self, now: Tick, opener: u32) {
        let is_new = self.tx.is_forgotten(now) && self.rx.is_forgotten(now);
        // In the middle of a TCP connection nobody knows better than who saw its beginning.
        if is_new && (opener != NOBODY as u32 || self.tx.verified | self.rx.verified == 0) {
            #[expect(clippy::cast_possible_truncation, reason = "one of three values")]
            let opener = opener as u8;
            self.opener = opener;
        }
    }

    /// Whether a packet of this direction may be the first that conntrack sees, should it have forgotten the flow: it takes whose packet that is
    /// for who opened, and what a rule says of the other's then would not be asked. So whoever answers is looked at behind whoever
    /// opened, while that one speaks. Not much later, though: conntrack's time-outs may be short.
    #[inline(always)]
    pub(super) const fn may_ask(&self, direction: Direction, now: Tick, epoch: u32) -> bool {
        let (_, other) = self.halves(direction);
        let answers = match direction {
            Direction::Tx => self.opener == PEER,
            Direction::Rx => self.opener == POD,
        };
        let age = now.wrapping_sub(other.verified);
        let is_right_behind = self.answer_due != 0 && age < PATIENCE;
        let is_silent = !other.is_awaited() && age >= REFRESH + PATIENCE;
        !answers || is_right_behind || is_silent || !other.holds(now, epoch)
    }
}
