//! What the bridge is shown of pods whose packets all go past it.
//!
//! It learns behind which port a MAC is from what comes in there, the last time counts, and forgets after five minutes. A pod that sends in
//! another's name takes that one's packets, until the other sends. So whoever sends does so by the bridge now and then.

use flannel_common::flow::{PEER, Tick};

use crate::globals::SHOW_GAP;
use crate::ours::Word;

/// Ports that are told apart: more share a turn.
const PLACES: usize = 4096;

/// When the bridge was last shown a packet of such a port.
static SHOWN: [Word; PLACES] = [const { Word::new() }; PLACES];

/// Whether the packet at hand, of this port, is to take the bridge. `opener`: of its flow. Of what a pod answers conntrack is to see none but
/// behind a question.
#[inline(always)]
pub(crate) fn is_turn(port: u32, now: Tick, opener: u8) -> bool {
    takes_bridge(port, now, opener.into()) != 0
}

/// A global function, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn takes_bridge(port: u32, now: u32, opener: u32) -> u32 {
    let gap = SHOW_GAP.load();
    if gap == 0 || opener == u32::from(PEER) {
        return 0;
    }
    let shown = &SHOWN[port as usize % PLACES];
    let is_due = now.wrapping_sub(shown.load() as Tick) >= gap;
    if is_due {
        shown.store(u64::from(now));
    }
    is_due.into()
}
