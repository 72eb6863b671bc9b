//! One packet in a few seconds is the stack's to judge; see [`flannel_common::asked`].

use flannel_common::Ipv4;
use flannel_common::asked::{AGENT, Asked};
use flannel_common::flow::Direction;

use crate::flows;
use crate::maps::ASKED;

/// What to do when it is time.
pub(crate) const LOOK: u8 = 0;
pub(crate) const ASK_IN: u8 = 1;
pub(crate) const ASK_OUT: u8 = 2;
/// As [`LOOK`], of what goes there.
pub(crate) const LOOK_OUT: u8 = 3;

/// Whether the packet at hand, from or to an outer address, is to ask the stack.
#[inline(always)]
pub(crate) fn is_turn(outer: Ipv4, what: u8) -> bool {
    is_turn_of(u32::from_ne_bytes(outer), what) != 0
}

/// A global function, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn is_turn_of(outer: u32, what: u8) -> u8 {
    let outer = outer.to_ne_bytes();
    let now = flows::now();
    let direction = match what {
        ASK_OUT | LOOK_OUT => Direction::Tx,
        _ => Direction::Rx,
    };
    let Some(asked) = ASKED.get_ptr_mut(outer) else {
        if is_agent_there(now) {
            // A full table has room for the next.
            let _ = ASKED.insert(outer, Asked::default(), 0);
        }
        return 0;
    };
    // SAFETY: an element of the map, which recycles but never frees it while the program runs. Other CPUs write the same
    // words: what gets lost is a question.
    let asked = unsafe { &mut *asked };
    let due = match direction {
        Direction::Tx => asked.is_due_out(now),
        Direction::Rx => asked.is_due_in(now),
    };
    if !due || !is_agent_there(now) {
        return 0;
    }
    match what {
        ASK_IN => asked.ask_in(now),
        ASK_OUT => asked.sent = now,
        _ => {}
    }
    1
}

/// Nobody else hears of it.
#[inline(always)]
fn is_agent_there(now: u32) -> bool {
    // SAFETY: as above.
    ASKED
        .get_ptr(AGENT)
        .is_some_and(|agent| unsafe { (*agent).is_there(now) })
}

/// The stack has let a packet from there through.
#[inline(always)]
pub(crate) fn was_seen(outer: Ipv4) {
    if let Some(asked) = ASKED.get_ptr_mut(outer) {
        // SAFETY: as above.
        unsafe { (*asked).seen = flows::now() };
    }
}
