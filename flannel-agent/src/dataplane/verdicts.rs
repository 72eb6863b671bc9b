//! What a program may answer, read from its instructions as the kernel runs them.
//!
//! A small part of what the verifier does: every register is a set of constants or unknown, and no branch is left out. What is
//! found holds; what is not found is no proof of anything.

use std::collections::{BTreeMap, BTreeSet};

/// One instruction: `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u8,
    pub(super) dst: u8,
    pub(super) src: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

/// More in one register are as good as unknown.
const MANY: usize = 8;

/// Every answer that the program can give, as `int`; `None` if some cannot be told: computed, another function's, or another
/// program's (`bpf_tail_call`).
pub(super) fn answers(program: &[Instruction]) -> Option<BTreeSet<i32>> {
    let mut known: BTreeMap<usize, State> = BTreeMap::from([(0, State::default())]);
    let mut work = vec![0];
    let mut answers = BTreeSet::new();
    while let Some(at) = work.pop() {
        let state = known.get(&at)?.clone();
        let next = match step(program, at, &state)? {
            Step::Exit => {
                answers.extend(state.0[0].as_ref()?);
                continue;
            }
            Step::On(state, next) => next
                .into_iter()
                .flatten()
                .map(move |at| (at, state.clone())),
        };
        for (at, state) in next {
            let grown = match known.get_mut(&at) {
                Some(known) => known.join(&state),
                None => {
                    known.insert(at, *state);
                    true
                }
            };
            if grown {
                work.push(at);
            }
        }
    }
    // Every program ends.
    Some(answers).filter(|answers| !answers.is_empty())
}

/// What each register may hold, cut to `int`; `None`: anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State([Option<BTreeSet<i32>>; 16]);

impl State {
    /// Whether it knows less now.
    fn join(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            let both = match (mine.as_ref(), theirs) {
                (Some(mine), Some(theirs)) => Some(mine | theirs),
                _ => None,
            };
            *mine = both.filter(|values| values.len() <= MANY);
        }
        *self != before
    }

    fn set(&mut self, register: u8, to: Option<BTreeSet<i32>>) {
        self.0[usize::from(register & 15)] = to;
    }

    fn get(&self, register: u8) -> Option<BTreeSet<i32>> {
        self.0[usize::from(register & 15)].clone()
    }
}

enum Step {
    Exit,
    /// With the places where it may go on.
    On(Box<State>, [Option<usize>; 2]),
}

/// `None`: the answer is another's, or this is no program.
fn step(program: &[Instruction], at: usize, state: &State) -> Option<Step> {
    const LD: u8 = 0;
    const LDX: u8 = 1;
    const STX: u8 = 3;
    const ALU: u8 = 4;
    const JMP: u8 = 5;
    const JMP32: u8 = 6;
    const ALU64: u8 = 7;
    /// `bpf_tail_call`, as a helper. The verifier makes an instruction of it, 0xf0.
    const TAIL_CALL: i32 = 12;

    let now = *program.get(at)?;
    let mut state = state.clone();
    let to = |offset: i64| usize::try_from(i64::try_from(at).ok()? + 1 + offset).ok();
    let (class, operation) = (now.code & 7, now.code & 0xf0);
    let next = match class {
        ALU | ALU64 => {
            let by_register = now.code & 8 != 0;
            let value = match operation {
                // mov; an offset makes it one that extends signs or casts pointers.
                0xb0 if by_register && now.offset == 0 => state.get(now.src),
                0xb0 if !by_register => Some(BTreeSet::from([now.immediate])),
                // Of itself.
                0xa0 if by_register && now.src == now.dst => Some(BTreeSet::from([0])),
                _ => None,
            };
            state.set(now.dst, value);
            [to(0), None]
        }
        LD => {
            // A constant of 64 bits takes two places. With a source it is an address.
            let wide = now.code == 0x18;
            let plain = wide && now.src == 0;
            state.set(now.dst, plain.then(|| BTreeSet::from([now.immediate])));
            if !wide {
                state.set(0, None);
            }
            [to(i64::from(wide)), None]
        }
        LDX => {
            state.set(now.dst, None);
            [to(0), None]
        }
        STX => {
            // Atomic operations fetch into one of these.
            if now.code & 0xe0 >= 0xc0 {
                for register in [now.src, now.dst, 0] {
                    state.set(register, None);
                }
            }
            [to(0), None]
        }
        JMP | JMP32 => match (class, operation) {
            (JMP, 0x90) => return Some(Step::Exit),
            (JMP, 0x80) => {
                if now.src == 0 && now.immediate == TAIL_CALL {
                    return None;
                }
                (0..=5).for_each(|register| state.set(register, None));
                [to(0), None]
            }
            (JMP, 0xf0) => return None,
            (JMP, 0) => [to(now.offset.into()), None],
            (_, 0) => [to(now.immediate.into()), None],
            _ => [to(0), to(now.offset.into())],
        },
        // A store.
        _ => [to(0), None],
    };
    Some(Step::On(Box::new(state), next))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: u8 = 0x95;
    const MOV: u8 = 0xb7;
    const MOV32: u8 = 0xb4;
    const MOV_REGISTER: u8 = 0xbf;
    const JEQ: u8 = 0x15;
    const JA: u8 = 0x05;
    const CALL: u8 = 0x85;

    fn i(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
        Instruction {
            code,
            dst,
            src,
            offset,
            immediate,
        }
    }

    fn all(values: &[i32]) -> Option<BTreeSet<i32>> {
        Some(values.iter().copied().collect())
    }

    #[test]
    fn one_answer() {
        assert_eq!(
            answers(&[i(MOV, 0, 0, 0, -1), i(EXIT, 0, 0, 0, 0)]),
            all(&[-1])
        );
        assert_eq!(
            answers(&[i(MOV32, 0, 0, 0, -1), i(EXIT, 0, 0, 0, 0)]),
            all(&[-1])
        );
        let wide = [i(0x18, 0, 0, 0, -1), i(0, 0, 0, 0, -1), i(EXIT, 0, 0, 0, 0)];
        assert_eq!(answers(&wide), all(&[-1]));
        let zero = [i(0xaf, 0, 0, 0, 0), i(EXIT, 0, 0, 0, 0)];
        assert_eq!(answers(&zero), all(&[0]));
    }

    #[test]
    fn both_branches_and_by_other_registers() {
        let program = [
            i(MOV, 6, 0, 0, -1),
            i(JEQ, 1, 0, 1, 7),
            i(MOV, 6, 0, 0, 2),
            i(CALL, 0, 0, 0, 5),
            i(MOV_REGISTER, 0, 6, 0, 0),
            i(EXIT, 0, 0, 0, 0),
        ];
        assert_eq!(answers(&program), all(&[-1, 2]));
    }

    #[test]
    fn a_loop_ends() {
        let program = [
            i(MOV, 0, 0, 0, -1),
            i(JEQ, 1, 0, 2, 7),
            i(MOV, 0, 0, 0, 0),
            i(JA, 0, 0, -3, 0),
            i(EXIT, 0, 0, 0, 0),
        ];
        assert_eq!(answers(&program), all(&[-1, 0]));
    }

    #[test]
    fn what_is_computed_called_or_jumped_to_is_unknown() {
        let exit = i(EXIT, 0, 0, 0, 0);
        // r0 += 1
        assert_eq!(
            answers(&[i(MOV, 0, 0, 0, -1), i(0x07, 0, 0, 0, 1), exit]),
            None
        );
        // r0 = *(u32 *)(r1 + 0)
        assert_eq!(answers(&[i(0x61, 0, 1, 0, 0), exit]), None);
        // Another function: its own exit is none of the program's.
        let function = [i(CALL, 0, 1, 1, 1), exit, i(MOV, 0, 0, 0, -1), exit];
        assert_eq!(answers(&function), None);
        let tail = [i(CALL, 0, 0, 0, 12), i(MOV, 0, 0, 0, -1), exit];
        assert_eq!(answers(&tail), None);
        let tail = [i(0xf5, 0, 0, 0, 0), i(MOV, 0, 0, 0, -1), exit];
        assert_eq!(answers(&tail), None);
        // A fetch into r0.
        let fetch = [i(MOV, 0, 0, 0, -1), i(0xdb, 1, 0, 0, 1), exit];
        assert_eq!(answers(&fetch), None);
        assert_eq!(answers(&[]), None);
        assert_eq!(answers(&[i(JA, 0, 0, -7, 0)]), None);
    }
}
