//! Telling a listener about packets. While nobody listens it costs one look at an array.

use flannel_common::event::Note;

use crate::maps::LISTEN;
use crate::skb::Skb;

/// Goes on in the listener's program, if there is one: then it does not return, and that program returns the TC action
/// in our place. `before`: what a program before this one decided, which had no chance to say so.
#[inline(always)]
pub(crate) fn tell(skb: &Skb, note: Note, before: Option<Note>) {
    let Some(listen) = LISTEN.get_ptr(0) else {
        return;
    };
    // SAFETY: a value of the map, which lives as long as the program; its words are read whole.
    let until = unsafe { (*listen).until };
    if until != 0 {
        skb.leave_notes([note, before.unwrap_or(Note(0))]);
        skb.go_on_in_teller();
    }
}
