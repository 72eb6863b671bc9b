//! The flow table and what goes with it: the clock and the epoch.

use aya_ebpf::bindings::BPF_NOEXIST;
use flannel_common::flow::{self, Direction, Flow, FlowKey, Proof, Step, Tick};

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

/// Which way the next packet of a direction takes: [`Flow::decide`].
#[inline(always)]
pub(crate) fn decide(flow: &Flow, direction: Direction, now: Tick, epoch: u32, both: bool) -> Step {
    let flow = (&raw const *flow).cast_mut();
    let step = match direction {
        Direction::Tx => decide_tx(flow, now, epoch, both.into()),
        Direction::Rx => decide_rx(flow, now, epoch, both.into()),
    };
    match step {
        STACK => Step::Stack,
        FAST => Step::Fast,
        REFRESH => Step::Refresh,
        _ => Step::Behind,
    }
}

const STACK: u32 = 0;
const FAST: u32 = 1;
const REFRESH: u32 = 2;
const BEHIND: u32 = 3;

/// A global function, which the verifier looks at once. One of each direction: no program asks about both.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn decide_tx(flow: *mut Flow, now: u32, epoch: u32, both: u32) -> u32 {
    step(flow, Direction::Tx, now, epoch, both)
}

/// A global function, as [`decide_tx`] is one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn decide_rx(flow: *mut Flow, now: u32, epoch: u32, both: u32) -> u32 {
    step(flow, Direction::Rx, now, epoch, both)
}

#[inline(always)]
fn step(flow: *mut Flow, direction: Direction, now: Tick, epoch: u32, both: u32) -> u32 {
    if flow.is_null() {
        return STACK;
    }
    // SAFETY: a value of the map, as in `get`.
    let flow = unsafe { &*flow };
    match flow.decide(direction, now, epoch, both != 0) {
        Step::Stack => STACK,
        Step::Fast => FAST,
        Step::Refresh => REFRESH,
        Step::Behind => BEHIND,
    }
}

/// What a packet proves that came out behind the stack: [`Flow::prove`].
#[inline(always)]
pub(crate) fn prove(flow: &mut Flow, direction: Direction, now: Tick, proof: &Proof) {
    note_opener(&raw mut *flow, now, proof.opener);
    flow.note_proof(direction, now, proof);
}

/// A global function, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_opener(flow: *mut Flow, now: u32, opener: u32) -> u32 {
    if flow.is_null() {
        return 0;
    }
    // SAFETY: a value of the map, as in `get`.
    let flow = unsafe { &mut *flow };
    flow.note_opener(now, opener);
    1
}

/// A pod whose port is asked for.
#[inline(always)]
pub(crate) fn asked(now: Tick) -> Flow {
    let mut pod = Flow::EMPTY;
    pod.note_probe(Direction::Rx, now);
    pod
}
