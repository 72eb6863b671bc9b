//! What each pod has of the SNAT table, counted for the programs, which cannot: they see flows begin, and not how they end.

use std::collections::{HashMap, HashSet};
use std::fmt;

use aya::maps::{Array, MapData};
use aya::sys::SyscallError;
use bytemuck::Pod;
use flannel_common::Ipv4;
use flannel_common::flow::Tick;
use flannel_common::maps::{LASTING, SHARES, YOUNG};
use flannel_common::snat::{
    Entry, KIND_LEAVE, KIND_PAIR, Key, Lasting, Place, Seen, Share, Transport, WAY_IN, WAY_OUT,
    is_a_pods, most_of_all, most_of_one,
};

use super::batch::Batches;
use super::bpffs::Pins;
use super::maps::pinned;
use super::{DataplaneError, Wire, held};

/// Flows in the table, by pod and by whether they came in.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// The out keys that have a place.
    places: HashSet<Key>,
    flows: HashMap<(Ipv4, bool), Flows>,
    /// Of translated connections that the pod has ended, the in halves' keys and their own; and all such keys of which the other side has.
    half_closed: Vec<(Key, Key)>,
    ended_there: HashSet<Key>,
}

/// Flows of one pod, or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Flows {
    /// Which have a place.
    placed: u32,
    others: u32,
}

impl Flows {
    const fn all(self) -> u32 {
        self.placed.saturating_add(self.others)
    }
}

impl Counts {
    /// `places`: the out keys that have one.
    pub(super) fn beside(places: HashSet<Key>) -> Self {
        Self {
            places,
            ..Self::default()
        }
    }

    /// One entry of the table, which lives. A connection that has ended only waits for its last segments.
    pub(super) fn add(&mut self, key: &Key, entry: &Entry) {
        let seen = Seen(entry.seen);
        let tcp = Transport::of(key.proto) == Transport::Tcp;
        let ends = tcp && seen.is_closing();
        match (key.way, entry.kind) {
            (WAY_IN, KIND_PAIR) if ends => {
                self.ended_there.insert(*key);
            }
            _ if tcp && seen.is_closed() => {}
            (WAY_OUT, KIND_PAIR) if ends => {
                let back = key.reply_to(entry.target());
                self.half_closed.push((back, *key));
            }
            (WAY_OUT, KIND_PAIR) => self.one_more(key, false),
            (WAY_OUT, KIND_LEAVE) => self.one_more(key, true),
            _ => {}
        }
    }

    /// After the last entry. One side alone has ended what goes on for as long as the other likes.
    pub(super) fn complete(&mut self) {
        for (back, key) in std::mem::take(&mut self.half_closed) {
            if !self.ended_there.contains(&back) {
                self.one_more(&key, false);
            }
        }
    }

    fn one_more(&mut self, key: &Key, came_in: bool) {
        let flows = self.flows.entry((key.src, came_in)).or_default();
        match self.places.contains(key) {
            true => flows.placed += 1,
            false => flows.others += 1,
        }
    }

    fn of(&self, pod: Ipv4, came_in: bool) -> Flows {
        self.flows.get(&(pod, came_in)).copied().unwrap_or_default()
    }

    /// All but these pods have.
    fn of_others(&self, pods: &HashSet<(Ipv4, bool)>, came_in: bool) -> Flows {
        let others = self.flows.iter();
        let others = others.filter(|(of, _)| of.1 == came_in && !pods.contains(*of));
        others.fold(Flows::default(), |sum, (_, flows)| Flows {
            placed: sum.placed.saturating_add(flows.placed),
            others: sum.others.saturating_add(flows.others),
        })
    }
}

/// With how many flows one opens no more: with half of the table; or, when all together have more than there may be, with what would be
/// left for him if nobody had more.
fn most(mut held: Vec<u32>, places: u32) -> u32 {
    let one = most_of_one(places);
    held.sort_unstable();
    let mut left = most_of_all(places);
    for (n, flows) in held.iter().enumerate() {
        let sharers = u32::try_from(held.len() - n).unwrap_or(u32::MAX);
        let even = left / sharers;
        if *flows > even {
            return even.min(one);
        }
        left -= flows;
    }
    one
}

/// The maps of a network.
pub(super) struct Shares {
    shares: Array<MapData, Wire<Share>>,
    lasting: Array<MapData, Wire<Lasting>>,
    /// For walks, as in [`super::SnatTable`].
    whole_shares: MapData,
    places: MapData,
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").finish_non_exhaustive()
    }
}

impl Shares {
    pub(super) fn open(pins: &Pins) -> Result<Self, DataplaneError> {
        let data = |name| held::open(name, pins).map_err(|e| DataplaneError::map(name, "open", e));
        Ok(Self {
            shares: pinned(SHARES, pins)?,
            lasting: pinned(LASTING, pins)?,
            whole_shares: data(SHARES)?,
            places: data(YOUNG)?,
        })
    }

    /// The out keys that have a place.
    pub(super) fn placed(&self) -> Result<HashSet<Key>, DataplaneError> {
        let places = all::<Place>(YOUNG, &self.places)?.into_iter();
        let keys = places.map(|(_, place)| place.key);
        Ok(keys.filter(|key| key.way != 0).collect())
    }

    /// Tells the programs what each pod has and may have, as of `now`.
    pub(super) fn counted(&mut self, counts: &Counts, now: Tick) -> Result<(), DataplaneError> {
        let mut taken: HashMap<u32, u32> = HashMap::new();
        let places = all::<Place>(YOUNG, &self.places)?;
        let count = u32::try_from(places.len()).unwrap_or(u32::MAX);
        for (_, place) in places {
            if place.key.way != 0 {
                *taken.entry(place.share).or_default() += 1;
            }
        }
        let shares = all::<Share>(SHARES, &self.whole_shares)?;
        for (index, share) in &shares {
            let taken = taken.get(index).copied().unwrap_or_default();
            if is_astray(share.young, taken) {
                let young = Share {
                    young: taken,
                    ..*share
                };
                self.shares
                    .set(*index, Wire(young), 0)
                    .map_err(|e| DataplaneError::map(SHARES, "write", e))?;
            }
        }
        let held = held(&shares, counts);
        let most = most(held.iter().map(|(_, flows)| flows.all()).collect(), count);
        for (index, flows) in held {
            let lasting = Lasting {
                flows: flows.others,
                placed: flows.placed,
                most,
                at: now,
            };
            self.lasting
                .set(index, Wire(lasting), 0)
                .map_err(|e| DataplaneError::map(LASTING, "write", e))?;
        }
        Ok(())
    }
}

/// What each share has of which somebody ever had a place. Those that are no pod's have what is left.
fn held(shares: &[(u32, Share)], counts: &Counts) -> Vec<(u32, Flows)> {
    let used = shares.iter().filter(|(_, share)| share.pod != [0; 4]);
    let pods: HashSet<(Ipv4, bool)> = used
        .clone()
        .filter_map(|(index, share)| Some((share.pod, is_a_pods(*index)?)))
        .collect();
    let flows = |index: u32, pod| match is_a_pods(index) {
        Some(came_in) => counts.of(pod, came_in),
        // The first of both halves.
        None => counts.of_others(&pods, index != 0),
    };
    used.map(|(index, share)| (*index, flows(*index, share.pod)))
        .collect()
}

/// Whether the programs' count of places is wrong by more than what comes and goes while they are walked over. Two CPUs that
/// take one place at the same moment count it twice; a table of another size has other places.
fn is_astray(young: u32, taken: u32) -> bool {
    young.abs_diff(taken) > 256 + taken / 4
}

fn all<V: Pod>(name: &'static str, map: &MapData) -> Result<Vec<(u32, V)>, DataplaneError> {
    let unreadable = |error| {
        let error = SyscallError {
            call: "BPF_MAP_LOOKUP_BATCH",
            io_error: error,
        };
        DataplaneError::map(name, "read", error.into())
    };
    let mut all = Vec::new();
    for batch in Batches::<u32, V>::of(map).map_err(unreadable)? {
        all.extend(batch.map_err(unreadable)?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use flannel_common::snat::{Endpoint, KIND_OWN};

    use super::*;

    fn all(counts: &Counts, pod: Ipv4, came_in: bool) -> u32 {
        counts.of(pod, came_in).all()
    }

    #[test]
    fn a_place_of_a_flow_that_is_over_takes_none_away_and_others_have_the_rest() {
        let [pod, elsewhere] = [[10, 244, 1, 5], [10, 244, 2, 7]];
        let key = |src, n| Key::of(src, [198, 51, 100, 9], [1, n, 0, 53], 17, WAY_OUT);
        let mut counts = Counts::beside(HashSet::from([key(pod, 1), key(pod, 200)]));
        let to = key(pod, 1).source();
        for key in [1, 2, 3].map(|n| key(pod, n)) {
            counts.add(&key, &Entry::new(KIND_PAIR, to, Seen::default(), 0));
        }
        let note = Entry::new(KIND_LEAVE, to, Seen::default(), 0);
        for key in [1, 2].map(|n| key(elsewhere, n)) {
            counts.add(&key, &note);
        }
        let (one, two) = (
            Flows {
                placed: 1,
                others: 2,
            },
            Flows {
                placed: 0,
                others: 2,
            },
        );
        let share = |pod| Share {
            pod,
            ..Share::default()
        };
        let shares = [
            (0, share(elsewhere)),
            (5, share(pod)),
            (6, Share::default()),
            (2_048, share(elsewhere)),
        ];
        let expected = [(0, Flows::default()), (5, one), (2_048, two)];
        assert_eq!(held(&shares, &counts), expected);
    }

    #[test]
    fn half_of_the_table_is_the_most_and_less_where_all_have_too_much() {
        let places = 1_000;
        let level = |held: &[u32]| most(held.to_vec(), places);
        assert_eq!(level(&[]), 2_000);
        assert_eq!(level(&[2_500]), 2_000, "one alone");
        assert_eq!(level(&[1_500, 1_500]), 2_000, "three quarters of it");
        // Two who would have all of it.
        assert_eq!(level(&[1_501, 1_500]), 1_500);
        assert_eq!(level(&[2_000, 100, 1_990]), 1_450, "who has few goes on");
        assert_eq!(level(&[1_000; 4]), 750);
        assert_eq!(level(&[u32::MAX, u32::MAX]), 1_500);
    }

    #[test]
    fn a_flow_counts_once_and_for_the_pod_that_has_it() {
        let pod = [10, 244, 1, 5];
        let key = Key::of(pod, [198, 51, 100, 9], [1, 2, 0, 80], 6, WAY_OUT);
        let to = Endpoint {
            addr: [192, 168, 0, 1],
            port: [200, 1],
        };
        let entry = |kind| Entry::new(kind, to, Seen::default(), 0);
        let mut counts = Counts::default();
        counts.add(&key, &entry(KIND_PAIR));
        counts.add(&key.reply_to(to), &entry(KIND_PAIR));
        assert_eq!(key.reply_to(to).way, WAY_IN);
        counts.add(&key, &entry(KIND_LEAVE));
        counts.add(&key.reply_to(to), &entry(KIND_OWN));
        assert_eq!((all(&counts, pod, false), all(&counts, pod, true)), (1, 1));
        assert_eq!(all(&counts, to.addr, false), 0);
    }

    #[test]
    fn a_connection_that_has_ended_counts_no_more() {
        const A: u8 = Seen::SYN | Seen::ACK;
        const F: u8 = A | Seen::FIN;
        let pod = [10, 244, 1, 5];
        let to = Endpoint {
            addr: [192, 168, 0, 1],
            port: [200, 1],
        };
        let key = |proto| Key::of(pod, [198, 51, 100, 9], [1, 2, 0, 80], proto, WAY_OUT);
        let counted = |proto, out: u8, back: u8| {
            let halves = [
                (key(proto), to, Seen::out(out)),
                (
                    key(proto).reply_to(to),
                    key(proto).source(),
                    Seen::back(back),
                ),
            ];
            let count = |mut halves: Vec<_>| {
                let mut counts = Counts::default();
                for (key, target, seen) in halves.drain(..) {
                    counts.add(&key, &Entry::new(KIND_PAIR, target, seen, 0));
                }
                counts.complete();
                all(&counts, pod, false)
            };
            let [one, other] = halves;
            let counted = count(vec![one, other]);
            assert_eq!(counted, count(vec![other, one]), "in any order");
            counted
        };
        assert_eq!(counted(6, A, A), 1);
        assert_eq!(counted(6, F, A), 1, "the server goes on");
        assert_eq!(counted(6, A, F), 1, "the pod goes on");
        assert_eq!(counted(6, F, F), 0);
        assert_eq!(counted(6, A | Seen::RST, A), 0);
        assert_eq!(counted(17, F, F), 1, "no TCP");
    }

    #[test]
    fn a_connection_that_came_in_counts_until_both_have_ended_it() {
        const F: u8 = Seen::ACK | Seen::FIN;
        let pod = [10, 244, 1, 5];
        let key = Key::of(pod, [198, 51, 100, 9], [0, 80, 1, 2], 6, WAY_OUT);
        let counted = |seen| {
            let mut counts = Counts::default();
            counts.add(&key, &Entry::new(KIND_LEAVE, key.source(), seen, 0));
            counts.complete();
            all(&counts, pod, true)
        };
        assert_eq!(counted(Seen::out(F).and(Seen::back(Seen::ACK))), 1);
        assert_eq!(counted(Seen::out(F).and(Seen::back(F))), 0);
    }

    #[test]
    fn a_count_that_is_far_off_is_put_right() {
        assert!(!is_astray(100, 300));
        assert!(is_astray(100, 500));
        assert!(is_astray(u32::MAX, 0), "below zero");
        assert!(is_astray(30_000, 0), "places of another table");
        assert!(!is_astray(30_000, 25_000));
    }
}
