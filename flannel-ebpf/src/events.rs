//! Telling a listener about packets. While nobody listens it costs one look at an array.

use aya_ebpf::bindings::TC_ACT_SHOT;
use flannel_common::event::{About, Listen};
use flannel_common::program::Program;
use flannel_common::reason::Reason;

use crate::maps::{EVENTS, LISTEN, LOST};
use crate::skb::{self, Skb};

#[inline(always)]
pub(crate) fn tell(skb: &Skb, program: Program, reason: Reason, action: i32) {
    let Some(listen) = LISTEN.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a value of the map, which lives as long as the program; its words are read and written whole.
    let until = unsafe { (*listen).until };
    if until != 0 {
        tell_listener(skb, program, reason, action == TC_ACT_SHOT, listen);
    }
}

#[inline(always)]
fn tell_listener(skb: &Skb, program: Program, reason: Reason, drop: bool, listen: *mut Listen) {
    // SAFETY: as in `tell`.
    let wish = unsafe { *listen };
    let Listen {
        until,
        mask,
        drops_only,
    } = wish;
    if !drop && (drops_only != 0 || skb::random() & mask != 0) {
        return;
    }
    let now = skb::exact_ns();
    if now > until {
        // SAFETY: as in `tell`. A listener that comes back at this moment says so again in a second.
        unsafe { (*listen).until = 0 };
        return;
    }
    let Some(mut entry) = EVENTS.reserve(0) else {
        if let Some(lost) = LOST.get_ptr_mut(0) {
            // SAFETY: this CPU's own word.
            unsafe { *lost += 1 };
        }
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: memory for one event, which is ours until it is submitted.
    let head = unsafe { &raw mut (*event).head };
    let about = About {
        at: now,
        ifindex: skb.ifindex(),
        len: skb.len(),
        gso_size: skb.gso_size(),
        program: program as u8,
        reason: reason as u8,
        caught: skb.catch(head),
        pad: 0,
    };
    // SAFETY: as above.
    unsafe { (*event).about = about };
    entry.submit(0);
}
