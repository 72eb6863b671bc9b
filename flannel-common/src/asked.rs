//! What the host's firewall says about a peer's tunnel packets (INPUT, OUTPUT), asked every few seconds by one of them: it takes
//! the node's own stack, and the agent hears of it behind that. Peers whose packets are not seen there any more are the
//! stack's ([`crate::maps::PEER_STACK`]), until one is.
//!
//! All times are ticks of [`crate::flow::tick`], 0 for never.

use bytemuck::{Pod, Zeroable};

use crate::Ipv4;
use crate::tick::{Tick, ticks};

/// From one question to the next.
pub const GAP: Tick = ticks(5_000);
/// The same while there is no answer.
pub const AGAIN: Tick = ticks(1_000);
/// The stack and the agent have answered by then.
pub const ANSWERED: Tick = ticks(800);
/// So many questions without answer are one.
pub const ENOUGH: u32 = 2;
/// What was seen so long ago says nothing any more.
const STALE: Tick = ticks(3_000);
/// Questions are asked only so long after the agent has said that it is there, which it does all the time: what asks one that has
/// just died is lost.
const THERE: Tick = ticks(100);
/// The key under which the agent says that it is there, in [`Asked::seen`].
pub const AGENT: Ipv4 = [0; 4];

/// One outer address.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Asked {
    /// When a packet from there was last left to the stack.
    pub received: Tick,
    /// How often that was since one was seen behind it.
    pub tries: u32,
    /// When one was last seen behind it.
    pub seen: Tick,
    /// When a packet to there was last left to the stack.
    pub sent: Tick,
}

const fn since(then: Tick, now: Tick) -> Tick {
    now.wrapping_sub(then)
}

impl Asked {
    /// Whether the last question has an answer.
    #[inline(always)]
    const fn is_answered(&self) -> bool {
        self.received == 0 || self.seen != 0 && since(self.received, self.seen) < 1 << 31
    }

    /// Whether it is time to ask about what comes from there.
    #[inline(always)]
    pub const fn is_due_in(&self, now: Tick) -> bool {
        let gap = if self.is_answered() { GAP } else { AGAIN };
        self.received == 0 || since(self.received, now) >= gap
    }

    /// The same about what goes there, where the answer is the agent's to act on.
    #[inline(always)]
    pub const fn is_due_out(&self, now: Tick) -> bool {
        self.sent == 0 || since(self.sent, now) >= GAP
    }

    /// A packet from there is left to the stack.
    #[inline(always)]
    pub const fn ask_in(&mut self, now: Tick) {
        self.tries = if self.is_answered() {
            1
        } else {
            self.tries + 1
        };
        self.received = now;
    }

    /// Whether the stack lets nothing through that comes from there.
    pub const fn is_refused(&self, now: Tick) -> bool {
        let last_may_be_under_way = since(self.received, now) < ANSWERED;
        let unanswered = self.tries.saturating_sub(last_may_be_under_way as u32);
        !self.is_answered() && unanswered >= ENOUGH
    }

    /// Whether the agent is there; of the entry under [`AGENT`].
    #[inline(always)]
    pub const fn is_there(&self, now: Tick) -> bool {
        self.seen != 0 && since(self.seen, now) < THERE
    }

    /// Whether it did a moment ago.
    pub const fn is_heard(&self, now: Tick) -> bool {
        self.seen != 0 && since(self.seen, now) < STALE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_questions_without_answer_are_one_and_an_answer_is_another() {
        let mut asked = Asked::default();
        let mut now = 1;
        for tries in 1..=ENOUGH {
            assert!(asked.is_due_in(now));
            asked.ask_in(now);
            assert!(!asked.is_due_in(now) && !asked.is_refused(now));
            assert_eq!(asked.tries, tries);
            now += AGAIN;
        }
        assert!(asked.is_refused(now));
        asked.ask_in(now);
        assert!(asked.is_refused(now), "whenever one looks");
        asked.seen = now;
        assert!(!asked.is_refused(now) && asked.is_heard(now));
        assert!(!asked.is_due_in(asked.received + GAP - 1));
        assert!(asked.is_due_in(asked.received + GAP));
        asked.ask_in(now + GAP);
        assert_eq!(asked.tries, 1);
    }

    #[test]
    fn an_answer_is_not_older_than_its_question_also_when_the_clock_wraps() {
        let mut asked = Asked {
            seen: u32::MAX - 10,
            ..Asked::default()
        };
        asked.ask_in(5);
        assert!(!asked.is_answered());
        asked.seen = 7;
        assert!(asked.is_answered());
    }
}
