//! The flow table and what goes with it: the clock and the epoch.

use aya_ebpf::bindings::BPF_NOEXIST;
use flannel_common::flow::{self, Direction, Flow, FlowKey, Tick};

use crate::clock;
use crate::globals::{FAST_PATH, POD_HOOK};
use crate::maps::{EPOCH, FLOWS};
use flannel_common::globals::{FAST_PATH_ALWAYS, FAST_PATH_OFF};
use flannel_common::reason::Reason;

#[inline(always)]
pub(crate) fn enabled() -> bool {
    FAST_PATH.load() != FAST_PATH_OFF
}

/// Whether flows are fast without proof.
#[inline(always)]
pub(crate) fn always() -> bool {
    FAST_PATH.load() == FAST_PATH_ALWAYS
}

#[inline(always)]
pub(crate) fn now() -> Tick {
    flow::tick(clock::coarse_ns())
}

/// Read it before anything that a new epoch would change, so that a proof is never newer than its facts.
#[inline(always)]
pub(crate) fn epoch() -> u32 {
    EPOCH.get(0).copied().unwrap_or(0)
}

/// Whether both directions must be proven before either is fast; see [`Flow::decide`].
#[inline(always)]
pub(crate) fn needs_both(key: &FlowKey) -> bool {
    key.needs_both(|| POD_HOOK.load())
}

#[inline(always)]
pub(crate) fn get(key: &FlowKey) -> Option<&'static mut Flow> {
    let flow = FLOWS.get_ptr_mut(key)?;
    // SAFETY: the pointer came from the map, which recycles but never frees an element while the program
    // runs. Another CPU may write the same words: each is a plain u32 whose loss costs one slow packet.
    Some(unsafe { &mut *flow })
}

/// Enters a flow of which a packet came out of the stack, or a pod.
#[inline(always)]
pub(crate) fn enter(key: &FlowKey, flow: &Flow) -> Result<(), Reason> {
    // EEXIST: another CPU was first, and noted the same.
    match FLOWS.insert(key, flow, u64::from(BPF_NOEXIST)) {
        Ok(()) | Err(-17) => Ok(()),
        Err(_) => Err(Reason::FlowTableFull),
    }
}

/// A pod whose port is asked for.
#[inline(always)]
pub(crate) fn asked(now: Tick) -> Flow {
    let mut pod = Flow::EMPTY;
    pod.note_probe(Direction::Rx, now);
    pod
}
