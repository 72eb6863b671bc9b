//! The one way out of every program: count, then return the TC action.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use flannel_common::event::Note;
use flannel_common::program::Program;
use flannel_common::reason::{Class, Reason};
use flannel_common::stats::Count;

use crate::events;
use crate::maps::STATS;
use crate::skb::Skb;
use crate::xdp_frame::Frame;

/// What a program decided when nothing stood against it.
pub(crate) enum Verdict {
    /// Taken: the TC action of a redirect, and the reason to count.
    Taken(i32, Reason),
    /// It comes by once more, by a redirect with this TC action, and is counted then.
    Again(i32),
    /// Not ours to judge; goes on uncounted.
    Untouched,
}

/// Every pass is `TC_ACT_UNSPEC`, so that programs behind ours still run.
#[inline(always)]
pub(crate) fn finish(skb: &Skb, program: Program, outcome: Result<Verdict, Reason>) -> i32 {
    end(skb, program, outcome, None)
}

/// The same for a program in which another one went on, which had decided as well.
#[inline(always)]
pub(crate) fn finish_both(
    skb: &Skb,
    (before, decided): (Program, Reason),
    program: Program,
    outcome: Result<Verdict, Reason>,
) -> i32 {
    count(before, decided, skb.len());
    let before = Note::new(before, decided, TC_ACT_UNSPEC);
    end(skb, program, outcome, Some(before))
}

#[inline(always)]
fn end(skb: &Skb, program: Program, outcome: Result<Verdict, Reason>, before: Option<Note>) -> i32 {
    let (action, decided) = decide(outcome);
    let note = decided.map(|reason| {
        count(program, reason, skb.len());
        Note::new(program, reason, action)
    });
    if let Some(last) = note.or(before) {
        let before = before.filter(|_| note.is_some());
        events::tell(skb, last, before);
    }
    action
}

/// The same where `pass` has the TC action for what they let pass; before a listener is told, who does not come back.
#[inline(always)]
pub(crate) fn finish_both_by(
    skb: &Skb,
    (before, decided): (Program, Reason),
    program: Program,
    outcome: Result<Verdict, Reason>,
    pass: impl FnOnce(&Skb) -> i32,
) -> i32 {
    count(before, decided, skb.len());
    let (action, reason) = decide(outcome);
    if let Some(reason) = reason {
        count(program, reason, skb.len());
    }
    let action = match action {
        TC_ACT_UNSPEC => pass(skb),
        action => action,
    };
    match reason {
        Some(reason) => {
            let before = Note::new(before, decided, TC_ACT_UNSPEC);
            events::tell(skb, Note::new(program, reason, action), Some(before));
        }
        None => events::tell(skb, Note::new(before, decided, action), None),
    }
    action
}

/// The TC action, and the reason to count.
#[inline(always)]
fn decide(outcome: Result<Verdict, Reason>) -> (i32, Option<Reason>) {
    match outcome {
        Ok(Verdict::Untouched) => (TC_ACT_UNSPEC, None),
        Ok(Verdict::Again(action)) => (action, None),
        Ok(Verdict::Taken(action, reason)) => (action, Some(reason)),
        Err(reason) => match reason.class() {
            Class::Drop => (TC_ACT_SHOT, Some(reason)),
            Class::Pass | Class::Forward => (TC_ACT_UNSPEC, Some(reason)),
        },
    }
}

/// The same for XDP, where only `uplink_rx` behind it passes anything with a reason.
#[inline(always)]
pub(crate) fn finish_xdp(frame: &Frame, (action, reason): (u32, Option<Reason>)) -> u32 {
    if let Some(reason) = reason {
        count(Program::UplinkXdp, reason, frame.len());
    }
    action
}

#[inline(always)]
fn count(program: Program, reason: Reason, len: u32) {
    let Some(counters) = STATS.get_ptr_mut(program as u32) else {
        return;
    };
    // LLVM keeps action and reason of a verdict in the halves of one register, shifts them apart, and knows the reason's range all
    // the while; the verifier does not. Of a word read back from memory nobody knows anything, so that it is compared.
    let index = reason as u32;
    // SAFETY: a local variable.
    let index = unsafe { (&raw const index).read_volatile() } as usize;
    if index >= Reason::ALL.len() {
        return;
    }
    let slot = counters.cast::<Count>().wrapping_add(index);
    // SAFETY: `Counters` is one `Count` per reason (asserted in flannel_common::stats), so the slot lies
    // inside this CPU's value, which no other CPU writes.
    let counter = unsafe { &mut *slot };
    counter.packets += 1;
    counter.bytes += u64::from(len);
}
