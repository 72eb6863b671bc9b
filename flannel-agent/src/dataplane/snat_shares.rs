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
    is_a_pods,
};

use super::batch::Batches;
use super::bpffs::Pins;
use super::maps::pinned;
use super::{DataplaneError, Wire};

/// Flows in the table, by pod and by whether they came in.
#[derive(Debug, Default)]
pub(super) struct Counts {
    flows: HashMap<(Ipv4, bool), u32>,
    /// Of translated connections that the pod has ended, the in halves' keys; and all such keys of which the other side has.
    half_closed: Vec<(Key, Ipv4)>,
    ended_there: HashSet<Key>,
}

impl Counts {
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
                self.half_closed.push((back, key.src));
            }
            (WAY_OUT, KIND_PAIR) => self.one_more(key.src, false),
            (WAY_OUT, KIND_LEAVE) => self.one_more(key.src, true),
            _ => {}
        }
    }

    /// After the last entry. One side alone has ended what goes on for as long as the other likes.
    pub(super) fn complete(&mut self) {
        for (back, pod) in std::mem::take(&mut self.half_closed) {
            if !self.ended_there.contains(&back) {
                self.one_more(pod, false);
            }
        }
    }

    fn one_more(&mut self, pod: Ipv4, came_in: bool) {
        *self.flows.entry((pod, came_in)).or_default() += 1;
    }

    fn of(&self, pod: Ipv4, came_in: bool) -> u32 {
        self.flows.get(&(pod, came_in)).copied().unwrap_or_default()
    }
}

/// The pinned maps of a network.
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
        let data = |name| {
            MapData::from_pin(pins.map(name)).map_err(|e| DataplaneError::map(name, "open", e))
        };
        Ok(Self {
            shares: pinned(SHARES, pins)?,
            lasting: pinned(LASTING, pins)?,
            whole_shares: data(SHARES)?,
            places: data(YOUNG)?,
        })
    }

    /// Tells the programs what each pod has besides its young flows, as of `now`.
    pub(super) fn counted(&mut self, counts: &Counts, now: Tick) -> Result<(), DataplaneError> {
        let mut taken: HashMap<u32, u32> = HashMap::new();
        for (_, place) in all::<Place>(YOUNG, &self.places)? {
            if place.key.way != 0 {
                *taken.entry(place.share).or_default() += 1;
            }
        }
        for (index, share) in all::<Share>(SHARES, &self.whole_shares)? {
            let taken = taken.get(&index).copied().unwrap_or_default();
            if is_astray(share.young, taken) {
                let young = Share {
                    young: taken,
                    ..share
                };
                self.shares
                    .set(index, Wire(young), 0)
                    .map_err(|e| DataplaneError::map(SHARES, "write", e))?;
            }
            // What shares a share is nobody's in particular, and bounded by its places alone.
            let Some(came_in) = is_a_pods(index) else {
                continue;
            };
            if share.pod == [0; 4] {
                continue;
            }
            let flows = counts.of(share.pod, came_in).saturating_sub(taken);
            self.lasting
                .set(index, Wire(Lasting { flows, at: now }), 0)
                .map_err(|e| DataplaneError::map(LASTING, "write", e))?;
        }
        Ok(())
    }
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
        assert_eq!((counts.of(pod, false), counts.of(pod, true)), (1, 1));
        assert_eq!(counts.of(to.addr, false), 0);
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
                counts.of(pod, false)
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
            counts.of(pod, true)
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
