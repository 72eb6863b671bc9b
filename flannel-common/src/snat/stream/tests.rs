//! Who is believed, and who is not.

use proptest::prelude::*;
use rstest::rstest;

use super::*;

const F: u8 = Seen::FIN;
const S: u8 = Seen::SYN;
const R: u8 = Seen::RST;
const A: u8 = Seen::ACK;
/// Where the two sides stand once they are established.
const AT: [u32; 2] = [1_000, u32::MAX - 5];

/// A table's knowledge of a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Known([Side; 2]);

impl Known {
    fn established() -> Self {
        let mut known = Self([Side::NONE; 2]);
        let before = AT.map(|at| at.wrapping_sub(1));
        known.hears(0, S, before[0], 0, 0);
        known.hears(1, S | A, before[1], AT[0], 0);
        known.hears(0, A, AT[0], AT[1], 0);
        known.hears(1, A, AT[1], AT[0], 0);
        assert_eq!(
            known.0.map(|side| (side.end, side.marks)),
            AT.map(|at| (at, 3))
        );
        known
    }

    /// Who waits for the other.
    fn waits(&self) -> Option<usize> {
        [0, 1]
            .into_iter()
            .find(|nth| self.0[*nth].waits_for(&self.0[1 - nth]))
    }

    fn hears(&mut self, nth: usize, bits: u8, seq: u32, ack: u32, len: u32) -> Talk {
        let control = u32::from(bits & F) + u32::from(bits >> 1 & 1);
        let end = seq.wrapping_add(len).wrapping_add(control);
        let segment = Segment { seq, ack, end };
        if let Some((own, other, _)) = place(self.0[nth], self.0[1 - nth], segment, bits) {
            (self.0[nth], self.0[1 - nth]) = (own, other);
        }
        let mut talk = Talk::new(self.0[nth], self.0[1 - nth], segment, bits, 0);
        judge(&mut talk);
        self.0[nth] = talk.own;
        if talk.tells_other != 0 {
            self.0[1 - nth] = talk.other;
        }
        talk
    }
}

#[test]
fn a_header_says_where_its_segment_lies() {
    let header = [0, 1, 0, 2, 0, 0, 1, 0, 0, 0, 2, 0, 8 << 4, 0x11];
    let segment = Segment::new(&header, 32 + 100);
    let expected = Segment {
        seq: 256,
        ack: 512,
        end: 256 + 100 + 1,
    };
    assert_eq!(segment, expected);
}

#[rstest]
#[case::refused(R | A, 1_000, R | A)]
#[case::another_s(R | A, 1_001, 0)]
#[case::without_acknowledgement(R, 1_000, 0)]
fn a_syn_is_refused_by_who_got_it(#[case] bits: u8, #[case] ack: u32, #[case] believed: u8) {
    let mut known = Known([Side::NONE; 2]);
    known.hears(0, S, 999, 0, 0);
    assert_eq!(known.hears(1, bits, 0, ack, 0).bits, u32::from(believed));
}

#[rstest]
#[case::expected(0, 0, R, 0, R)]
#[case::behind_data(0, 100, R | A, 0, R | A)]
#[case::behind_data_that_a_forger_may_have_sent(0, 100, R, 0, 0)]
#[case::who_does_not_know_what_was_heard(0, 100, R | A, 1, 0)]
#[case::nor_what_was_acknowledged(0, 100, R | A, -1, 0)]
#[case::in_between(0, 50, R | A, 0, 0)]
#[case::further(0, 101, R | A, 0, 0)]
#[case::before(1, -1, R, 0, 0)]
fn a_reset_lies_exactly_where_one_can(
    #[case] nth: usize,
    #[case] at: i32,
    #[case] bits: u8,
    #[case] acknowledges: i32,
    #[case] believed: u8,
) {
    let mut known = Known::established();
    known.hears(0, A, AT[0], AT[1], 100);
    let [seq, ack] = [
        AT[nth].wrapping_add_signed(at),
        AT[1 - nth].wrapping_add_signed(acknowledges),
    ];
    let talk = known.hears(nth, bits, seq, ack, 0);
    assert_eq!(talk.bits, u32::from(believed));
}

#[test]
fn a_fin_is_believed_when_it_is_acknowledged() {
    let mut known = Known::established();
    assert_eq!(known.hears(0, F | A, AT[0], AT[1], 10).bits, u32::from(A));
    assert_eq!(
        known.hears(1, A, AT[1], AT[0] + 10, 0).ends_other,
        0,
        "the data alone"
    );
    let talk = known.hears(1, F | A, AT[1], AT[0] + 11, 0);
    assert_eq!((talk.bits, talk.ends_other), (u32::from(A), 1));
    assert_eq!(
        known
            .hears(0, A, AT[0] + 11, AT[1].wrapping_add(1), 0)
            .ends_other,
        1
    );
    let repeated = known.hears(0, F | A, AT[0], AT[1], 10);
    assert_eq!(repeated.bits, u32::from(F | A));
}

/// One that was made up, and hit by chance: the true data that follows takes it back.
#[test]
fn behind_a_fin_there_is_no_data() {
    let mut known = Known::established();
    known.hears(0, F | A, AT[0], AT[1], 10);
    known.hears(0, A, AT[0], AT[1], 11);
    assert_eq!(known.hears(1, A, AT[1], AT[0] + 11, 0).ends_other, 0);
}

/// What the other side may have lost, or is not there any more to hear.
#[rstest]
#[case::data_again(A, 0, 10, true)]
#[case::part_of_it_again(A, 0, 4, true)]
#[case::all_behind_a_fin_again(F | A, 0, 10, true)]
#[case::a_fin_at_once(F | A, 10, 0, true)]
#[case::more_data(A, 10, 10, false)]
#[case::the_end_of_it_again(A, 4, 6, false)]
#[case::a_question_whether_it_is_there(A, -1, 0, false)]
#[case::an_acknowledgement(A, 10, 0, false)]
fn who_says_it_again_waits(
    #[case] bits: u8,
    #[case] at: i32,
    #[case] len: u32,
    #[case] waits: bool,
    #[values(0, 1)] nth: usize,
) {
    let mut known = Known::established();
    let [here, there] = [AT[nth], AT[1 - nth]];
    known.hears(nth, A, here, there, 10);
    if bits & F != 0 && at > 0 {
        known.hears(1 - nth, A, there, here.wrapping_add(10), 0);
    }
    assert_eq!(known.waits(), None);
    known.hears(nth, bits, here.wrapping_add_signed(at), there, len);
    assert_eq!(known.waits(), waits.then_some(nth));
    let heard = known.0[nth].end;
    known.hears(1 - nth, A, there, heard, 0);
    assert_eq!(known.waits(), None, "acknowledged");
}

#[test]
fn a_side_that_goes_on_does_not_wait() {
    let mut known = Known::established();
    known.hears(0, A, AT[0], AT[1], 10);
    known.hears(0, A, AT[0], AT[1], 10);
    assert_eq!(known.waits(), Some(0));
    known.hears(0, A, AT[0] + 10, AT[1], 0);
    assert_eq!(known.waits(), None);
}

/// Too much in a row was lost ahead of the node; or somebody made up an end.
#[rstest]
fn an_end_that_was_lost_is_found_where_both_are(
    #[values(0, 1)] nth: usize,
    #[values(F, 0)] last: u8,
    #[values(LEAP + 1, LEAP * 100, 1 << 30)] lost: u32,
) {
    let mut known = Known::established();
    let [mut here, there] = [AT[nth].wrapping_add(lost), AT[1 - nth]];
    known.hears(nth, A | last, here, there, 10);
    here = here.wrapping_add(10 + u32::from(last));
    assert_ne!(known.0[nth].end, here);
    let talk = known.hears(1 - nth, A, there, here, 0);
    assert_eq!(talk.ends_other, u32::from(last));
    assert_eq!(known.0[nth].end, here);
    assert_eq!(known.hears(nth, R, here, 0, 0).bits, u32::from(R));
}

/// A forger has moved it, and it is the last that is said.
#[test]
fn a_fin_behind_a_made_up_end_is_found() {
    let mut known = Known::established();
    known.hears(0, A, AT[0], AT[1].wrapping_sub(77), LEAP);
    assert_eq!(known.0[0].end, AT[0] + LEAP);
    known.hears(0, F | A, AT[0], AT[1], 10);
    assert_eq!(known.waits(), Some(0));
    assert_eq!(known.hears(1, A, AT[1], AT[0] + 11, 0).ends_other, 1);
    assert_eq!(known.0[0].end, AT[0] + 11);
}

/// Nor is it enough to say the same in both names, without what either side has said.
#[test]
fn an_end_is_not_found_by_who_sees_neither_side() {
    let mut known = Known::established();
    let made_up = AT[0] + 100 * LEAP;
    for bits in [A, F | A] {
        known.hears(0, bits, made_up, AT[1].wrapping_sub(77), 0);
        known.hears(1, A, 4711, made_up + u32::from(bits & F), 0);
        assert_eq!((known.0[0].end, known.0[1].next), (AT[0], AT[0]));
    }
}

#[test]
fn acknowledgements_go_forward_and_not_beyond_what_was_sent() {
    let mut known = Known::established();
    for ack in [AT[1] + 1, AT[1] - 1, 0, AT[1].wrapping_add(1 << 31)] {
        known.hears(0, A, AT[0], ack, 0);
        assert_eq!(known.0[0].next, AT[1], "{ack}");
    }
    known.hears(1, A, AT[1], AT[0], 20);
    known.hears(0, A, AT[0], AT[1].wrapping_add(20), 0);
    assert_eq!(known.0[0].next, AT[1].wrapping_add(20));
}

/// Whose sender is known by its address and ports alone.
fn forged() -> impl Strategy<Value = (u8, u32, u32, u32)> {
    let bits = prop::sample::select(vec![A, R, R | A, F | A, S, S | A, F, 0]);
    (bits, any::<u32>(), any::<u32>(), 0..2000_u32)
}

proptest! {
    /// Of whatever one forger says in the name of one side nothing is believed, unless he hits.
    #[test]
    fn one_side_alone_is_not_believed(nth in 0..2_usize, forgeries in prop::collection::vec(forged(), 1..60)) {
        let mut known = Known::established();
        for (bits, seq, ack, len) in forgeries {
            let near = |at: u32| seq.wrapping_sub(at).wrapping_add(1 << 20) < 1 << 21;
            prop_assume!(!near(AT[nth]) && ack != AT[1 - nth]);
            let talk = known.hears(nth, bits, seq, ack, len);
            prop_assert_eq!(talk.bits & u32::from(R | F | S), 0);
            prop_assert_eq!(talk.anew | talk.ends_other, 0);
            prop_assert_eq!(known.waits(), None);
        }
        // The two are still understood.
        let next = known.hears(1 - nth, A, AT[1 - nth], AT[nth], 7);
        prop_assert_eq!(next.ends_other, 0);
        let [own, other] = [AT[nth], AT[1 - nth].wrapping_add(7)];
        prop_assert_eq!(known.hears(nth, R, own, other, 0).bits, u32::from(R));
    }

    /// Before anything is known, too.
    #[test]
    fn the_unknown_is_not_ended_by_one_side(nth in 0..2_usize, forgeries in prop::collection::vec(forged(), 1..60)) {
        let mut known = Known([Side::NONE; 2]);
        let mut both = [AT[nth], AT[1 - nth]];
        for (bits, seq, ack, len) in forgeries {
            prop_assume!(ack != both[1]);
            let talk = known.hears(nth, bits, seq, ack, len);
            prop_assert_eq!(talk.bits & u32::from(R | F), 0);
            prop_assert_eq!(talk.anew | talk.ends_other, 0);
        }
        for _ in 0..2 {
            known.hears(1 - nth, A, both[1], both[0], 5);
            both[1] = both[1].wrapping_add(5);
            known.hears(nth, A, both[0], both[1], 5);
            both[0] = both[0].wrapping_add(5);
        }
        prop_assert_eq!(known.hears(1 - nth, R, both[1], 0, 0).bits, u32::from(R));
    }

    /// Losses ahead of the node, repetitions, reordering: at the end both are understood.
    #[test]
    fn a_lossy_line_stays_known(
        steps in prop::collection::vec((0..2_usize, 0..1400_u32, prop::sample::select(vec![0_u8, 1, 1, 1, 2, 3])), 1..200),
    ) {
        let mut known = Known::established();
        let mut at = AT;
        // What the other side has acknowledged.
        let mut lost = 0;
        for (nth, len, what) in steps {
            let (seq, ack) = (at[nth], at[1 - nth]);
            match what {
                // Never seen here; as much in a row as may be lost.
                0 if lost + len < LEAP / 2 => lost += len,
                // Again.
                2 => { known.hears(nth, A, seq.wrapping_sub(500), ack, 500); continue; }
                3 => { known.hears(nth, A, seq.wrapping_sub(900), ack.wrapping_sub(700), 100); continue; }
                _ => { lost = 0; known.hears(nth, A, seq, ack, len); }
            }
            at[nth] = seq.wrapping_add(len);
        }
        for nth in [0, 1, 0] {
            known.hears(nth, A, at[nth], at[1 - nth], 1);
            at[nth] = at[nth].wrapping_add(1);
        }
        for nth in [0, 1] {
            known.hears(nth, F | A, at[nth], at[1 - nth], 0);
            at[nth] = at[nth].wrapping_add(1);
            let talk = known.hears(1 - nth, A, at[1 - nth], at[nth], 0);
            prop_assert_eq!(talk.ends_other, 1);
        }
    }
}
