//! What a program leaves to the listener's, and what that one makes of it.

use flannel_common::event::{About, LONGEST, Note};

use super::Skb;
use crate::maps::{CAPTURE, TELLER};

impl Skb {
    /// Goes on in the listener's program; returns only if there is none.
    #[inline(always)]
    pub(crate) fn go_on_in_teller(&self) {
        // SAFETY: as in `step`.
        unsafe { TELLER.tail_call(&self.ctx, 0) };
    }

    /// For the program that we go on in. The control block is whoever's who has the packet at the moment.
    #[inline(always)]
    pub(crate) fn leave_notes(&self, [Note(one), Note(two)]: [Note; 2]) {
        // SAFETY: as in `new`; the verifier allows these fields to be written.
        unsafe { (*self.raw()).cb[0] = one };
        // SAFETY: as above.
        unsafe { (*self.raw()).cb[1] = two };
    }

    #[inline(always)]
    pub(crate) fn notes(&self) -> [Note; 2] {
        // SAFETY: as in `new`.
        let one = unsafe { (*self.raw()).cb[0] };
        // SAFETY: as in `new`.
        let two = unsafe { (*self.raw()).cb[1] };
        [Note(one), Note(two)]
    }

    /// Copies up to `snap` bytes of the packet, behind `about`, into this CPU's buffer of [`CAPTURE`]. The kernel counts what
    /// finds no room.
    #[inline(always)]
    pub(crate) fn put_out(&self, about: &About, snap: u32) {
        let bytes = self.len().min(snap).min(LONGEST);
        CAPTURE.output(&self.ctx, about, bytes);
    }
}
