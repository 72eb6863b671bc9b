//! Which entries the agent may remove.

use super::entry::{Entry, KIND_PAIR, Key, WAY_IN};
use super::{Seen, Side, Times, Transport};

/// The map, as whoever sweeps it sees it: one entry at a time.
pub trait Halves {
    type Error;

    /// # Errors
    /// If the map cannot be read.
    fn get(&self, key: &Key) -> Result<Option<Entry>, Self::Error>;
    /// Whether there was something to remove.
    ///
    /// # Errors
    /// If the map cannot be written.
    fn remove(&mut self, key: &Key) -> Result<bool, Self::Error>;
    /// As [`Table::hold`](super::Table::hold).
    ///
    /// # Errors
    /// If it cannot be found out.
    fn hold(&mut self, key: &Key, now: u64) -> Result<bool, Self::Error>;
    /// As [`Table::let_go`](super::Table::let_go).
    ///
    /// # Errors
    /// If that fails: then nobody ends that flow for a while.
    fn let_go(&mut self, key: &Key) -> Result<(), Self::Error>;
}

/// The key of the other half, for an entry that has one.
pub fn other_half(key: &Key, entry: &Entry) -> Option<Key> {
    (entry.kind == KIND_PAIR).then(|| key.other_half(entry.target()))
}

/// Whether an entry's flow may be over: what can be said without a look at the other half. For a flow that is
/// over it says so of at least one of its halves.
pub fn may_be_over(times: &Times, key: &Key, entry: &Entry, now: u64) -> bool {
    let silent = now.saturating_sub(entry.last_seen);
    silent > times.least(key.proto, Seen(entry.seen)) || waits(entry) && silent > times.waiting()
}

/// Whether a side of the flow may wait for the other.
fn waits(entry: &Entry) -> bool {
    let [out, back] = entry.sides;
    (out.marks | back.marks) & Side::WAITS != 0
}

/// Removes the flow of `key`, where `entry` was read, if it is over; `false` if there was nothing to remove.
///
/// # Errors
/// If the map cannot be read or written.
pub fn sweep<H: Halves>(
    halves: &mut H,
    times: &Times,
    key: &Key,
    entry: &Entry,
    now: u64,
) -> Result<bool, H::Error> {
    if !may_be_over(times, key, entry, now) {
        return Ok(false);
    }
    let mate = other_half(key, entry);
    let back = match key.way {
        WAY_IN => Some(*key),
        _ => mate,
    };
    let Some(back) = back else {
        return sweep_alone(halves, times, key, mate, now);
    };
    if !halves.hold(&back, now)? {
        return Ok(false);
    }
    let swept = sweep_alone(halves, times, key, mate, now);
    halves.let_go(&back)?;
    swept
}

/// The same, while nobody else ends the flow.
fn sweep_alone<H: Halves>(
    halves: &mut H,
    times: &Times,
    key: &Key,
    mate: Option<Key>,
    now: u64,
) -> Result<bool, H::Error> {
    // The entry was read some time ago.
    let Some(entry) = halves.get(key)? else {
        return Ok(false);
    };
    if other_half(key, &entry) != mate {
        return Ok(false);
    }
    let other = match &mate {
        Some(mate) => halves.get(mate)?,
        None => None,
    };
    if !is_over(times, key, &entry, other.as_ref(), now) {
        return Ok(false);
    }
    let other = other.filter(|other| other.pairs_with(key.source_of_half()));
    let (Some(mate), Some(other)) = (mate, other) else {
        return halves.remove(key);
    };
    // The in half first: a packet that leaves just now brings it back, and its flow goes on.
    let (back, out, out_entry) = if key.way == WAY_IN {
        (key, &mate, other)
    } else {
        (&mate, key, entry)
    };
    let removed = halves.remove(back)?;
    if halves.get(out)? != Some(out_entry) {
        return Ok(false);
    }
    Ok(halves.remove(out)? || removed)
}

/// Whether `key` is that of replies to a port which is none of those that the programs look up, host order: they were given other ports
/// since. Its flow would go on leaving under that port, unanswered.
pub fn is_stray(key: &Key, entry: &Entry, reaches: impl Fn(u16) -> bool) -> bool {
    key.way == WAY_IN
        && entry.kind == KIND_PAIR
        && Transport::of(key.proto).has_port_range()
        && !reaches(u16::from_be_bytes(key.dst_port))
}

/// Removes the flow whose replies have the key `back`: its next packet begins a new one. `false` if it was not there any more.
///
/// # Errors
/// If the map cannot be read or written.
pub fn end_stray<H: Halves>(halves: &mut H, back: &Key, now: u64) -> Result<bool, H::Error> {
    if !halves.hold(back, now)? {
        return Ok(false);
    }
    let ended = end_alone(halves, back);
    halves.let_go(back)?;
    ended
}

fn end_alone<H: Halves>(halves: &mut H, back: &Key) -> Result<bool, H::Error> {
    let Some(out) = halves.get(back)?.and_then(|entry| other_half(back, &entry)) else {
        return Ok(false);
    };
    // First, or a packet that leaves just now brings the other back.
    let other = halves.get(&out)?;
    if other.is_some_and(|other| other.pairs_with(back.source_of_half())) {
        halves.remove(&out)?;
    }
    halves.remove(back)
}

/// Both halves of a flow, together.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    pub seen: Seen,
    pub opened: u64,
    pub last_seen: u64,
    pub sides: [Side; 2],
}

impl Flow {
    /// `other` is what the map holds under [`other_half`].
    pub fn of(key: &Key, entry: &Entry, other: Option<&Entry>) -> Self {
        let mut flow = Self {
            seen: Seen(entry.seen),
            opened: entry.opened,
            last_seen: entry.last_seen,
            sides: entry.sides,
        };
        if let Some(other) = other.filter(|other| other.pairs_with(key.source_of_half())) {
            flow.seen = flow.seen.and(Seen(other.seen));
            flow.opened = flow.opened.min(other.opened);
            flow.last_seen = flow.last_seen.max(other.last_seen);
            let theirs = 1 - key.side();
            flow.sides[theirs] = other.sides[theirs];
        }
        flow
    }

    /// After the last packet, nanoseconds.
    pub fn lifetime(&self, times: &Times, proto: u8) -> u64 {
        let [out, back] = &self.sides;
        let length = self.last_seen.saturating_sub(self.opened);
        times.lifetime_of(proto, self.seen, length, [out, back])
    }
}

/// Whether a flow is over at `now` (monotonic nanoseconds). `other` is what the map holds under [`other_half`].
pub fn is_over(times: &Times, key: &Key, entry: &Entry, other: Option<&Entry>, now: u64) -> bool {
    let flow = Flow::of(key, entry, other);
    now.saturating_sub(flow.last_seen) > flow.lifetime(times, key.proto)
}

#[cfg(test)]
mod tests {
    use core::cell::{Cell, RefCell};
    use core::convert::Infallible;
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::super::times::tests::any_times;
    use super::super::{Endpoint, KIND_LEAVE, KIND_OWN, NANOS, WAY_OUT};
    use super::*;

    const TIMES: &Times = &Times::DEFAULT;

    const OUT: Key = Key {
        src: [10, 244, 1, 5],
        dst: [198, 51, 100, 9],
        src_port: [1, 2],
        dst_port: [0, 80],
        proto: 6,
        way: WAY_OUT,
        pad: [0; 2],
    };
    const US: Endpoint = Endpoint {
        addr: [192, 168, 0, 1],
        port: [200, 1],
    };

    fn halves(out_at: u64, back_at: u64) -> (Entry, Entry) {
        let out = Entry::new(KIND_PAIR, US, Seen::out(Seen::SYN | Seen::ACK), out_at);
        let back = Entry::new(
            KIND_PAIR,
            OUT.source(),
            Seen::back(Seen::SYN | Seen::ACK),
            back_at,
        );
        (out, back)
    }

    #[test]
    fn both_halves_say_the_same() {
        let (out, back) = halves(0, 50_000 * NANOS);
        let back_key = other_half(&OUT, &out).unwrap();
        assert_eq!(other_half(&back_key, &back), Some(OUT));
        for (seconds, over) in [
            (100, false),
            (400_000, false),
            (481_999, false),
            (482_001, true),
        ] {
            let now = seconds * NANOS;
            assert_eq!(
                is_over(TIMES, &OUT, &out, Some(&back), now),
                over,
                "{seconds}"
            );
            assert_eq!(
                is_over(TIMES, &back_key, &back, Some(&out), now),
                over,
                "{seconds}"
            );
        }
    }

    #[test]
    fn of_a_port_that_is_not_ours_any_more_both_halves_end() {
        let (out, back) = halves(0, 0);
        let back_key = OUT.other_half(US);
        let port = u16::from_be_bytes(US.port);
        assert!(is_stray(&back_key, &back, |_| false));
        assert!(!is_stray(&back_key, &back, |reached| reached == port));
        assert!(!is_stray(&OUT, &out, |_| false), "its other half says it");
        let ping = Key {
            proto: 1,
            ..back_key
        };
        assert!(!is_stray(&ping, &back, |_| false), "ids are of no range");
        let own = Entry {
            kind: KIND_OWN,
            ..back
        };
        assert!(!is_stray(&back_key, &own, |_| false));

        let map = Memory::of(&[(OUT, out), (back_key, back)]);
        assert!(end_stray(&mut &map, &back_key, 0).unwrap());
        assert!(!end_stray(&mut &map, &back_key, 0).unwrap());
        assert_eq!(map.entries.into_inner(), [].into());

        let anothers = Entry {
            port: [1, 2],
            ..out
        };
        let map = Memory::of(&[(OUT, anothers), (back_key, back)]);
        assert!(end_stray(&mut &map, &back_key, 0).unwrap());
        assert_eq!(map.entries.into_inner(), [(OUT, anothers)].into());
    }

    #[test]
    fn anothers_half_does_not_count() {
        let (out, mut back) = halves(0, 1000 * NANOS);
        back.addr = [10, 244, 1, 6];
        assert!(is_over(TIMES, &OUT, &out, Some(&back), 1000 * NANOS));
        assert!(is_over(TIMES, &OUT, &out, None, 1000 * NANOS));
    }

    /// A map, in which something may happen between two steps of a sweep.
    #[derive(Default)]
    struct Memory {
        entries: RefCell<BTreeMap<Key, Entry>>,
        /// Touched as soon as anything is removed.
        touched: Option<(Key, u64)>,
        held: Cell<Option<Key>>,
    }

    impl Halves for &Memory {
        type Error = Infallible;

        fn get(&self, key: &Key) -> Result<Option<Entry>, Infallible> {
            Ok(self.entries.borrow().get(key).copied())
        }

        fn hold(&mut self, key: &Key, _: u64) -> Result<bool, Infallible> {
            assert_eq!(key.way, WAY_IN);
            Ok(self.held.replace(Some(*key)).is_none())
        }

        fn let_go(&mut self, key: &Key) -> Result<(), Infallible> {
            assert_eq!(self.held.take(), Some(*key));
            Ok(())
        }

        fn remove(&mut self, key: &Key) -> Result<bool, Infallible> {
            let removed = self.entries.borrow_mut().remove(key).is_some();
            if let Some((touched, at)) = self.touched
                && let Some(entry) = self.entries.borrow_mut().get_mut(&touched)
            {
                entry.last_seen = at;
            }
            Ok(removed)
        }
    }

    impl Memory {
        fn of(entries: &[(Key, Entry)]) -> Self {
            Self {
                entries: RefCell::new(entries.iter().copied().collect()),
                touched: None,
                held: Cell::default(),
            }
        }

        /// One walk over all entries; how many flows were removed, how many entries are left.
        fn walk(&self, now: u64) -> (usize, usize) {
            let all: Vec<_> = self
                .entries
                .borrow()
                .iter()
                .map(|(k, e)| (*k, *e))
                .collect();
            let swept = all
                .iter()
                .filter(|(key, entry)| sweep(&mut &*self, TIMES, key, entry, now).unwrap())
                .count();
            (swept, self.entries.borrow().len())
        }
    }

    #[test]
    fn both_halves_go_together() {
        let (out, back) = halves(0, 50_000 * NANOS);
        let map = Memory::of(&[(OUT, out), (OUT.other_half(US), back)]);
        assert_eq!(map.walk(481_999 * NANOS), (0, 2));
        assert_eq!(map.walk(482_001 * NANOS), (1, 0));
    }

    #[test]
    fn a_half_alone_goes_alone() {
        let (out, mut back) = halves(0, 0);
        back.addr = [10, 244, 1, 6];
        let anothers = (OUT.other_half(US), back);
        let map = Memory::of(&[(OUT, out), anothers]);
        assert!(sweep(&mut &map, TIMES, &OUT, &out, 200 * NANOS).unwrap());
        assert_eq!(map.entries.into_inner(), [anothers].into());
    }

    #[rstest]
    #[case::came_in(KIND_LEAVE)]
    #[case::the_nodes_own(KIND_OWN)]
    fn a_note_has_no_other_half(#[case] kind: u8) {
        let note = Entry::new(kind, OUT.source(), Seen::out(Seen::RST), 0);
        let map = Memory::of(&[(OUT, note)]);
        assert_eq!(map.walk(10 * NANOS), (0, 1));
        assert_eq!(map.walk(11 * NANOS), (1, 0));
    }

    #[test]
    fn what_is_read_is_read_again_before_it_is_removed() {
        let (out, _) = halves(0, 0);
        let map = Memory::of(&[(
            OUT,
            Entry {
                last_seen: 200 * NANOS,
                ..out
            },
        )]);
        assert!(!sweep(&mut &map, TIMES, &OUT, &out, 201 * NANOS).unwrap());
    }

    #[test]
    fn a_flow_that_sends_in_the_middle_of_it_goes_on() {
        let (out, back) = halves(0, 0);
        let now = 500_000 * NANOS;
        let map = Memory {
            touched: Some((OUT, now)),
            ..Memory::of(&[(OUT, out), (OUT.other_half(US), back)])
        };
        assert_eq!(map.walk(now), (0, 1));
    }

    proptest! {
        /// Else a flow that is over would never be looked at.
        #[test]
        fn of_what_is_over_one_half_says_so(
            out_seen in 0u8..16, back_seen in 0u8..16, proto in prop::sample::select(&[6u8, 17, 1, 47, 50, 132][..]),
            out_at in 0..2_000u64, back_at in 0..2_000u64, now in 0..4_000u64, times in any_times(),
            marks in prop::array::uniform2(prop::sample::select(&[0, Side::AGREED, Side::AGREED | Side::WAITS][..])),
        ) {
            let key = Key { proto, ..OUT };
            let now = (2_000 + now) * NANOS;
            let mut out = Entry::new(KIND_PAIR, US, Seen::out(out_seen), out_at * NANOS);
            let mut back = Entry::new(KIND_PAIR, key.source(), Seen::back(back_seen), back_at * NANOS);
            [out.sides[0].marks, back.sides[1].marks] = marks;
            [out.sides[0].asked, back.sides[1].asked] = [1; 2];
            if is_over(&times, &key, &out, Some(&back), now) {
                prop_assert!(may_be_over(&times, &key, &out, now) || may_be_over(&times, &key.other_half(US), &back, now));
            }
        }
    }
}
