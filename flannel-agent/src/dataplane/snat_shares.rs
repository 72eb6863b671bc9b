//! What each pod has of the SNAT table, counted for the programs, which cannot: they see flows begin, and not how they end.

use std::collections::HashMap;
use std::fmt;

use aya::maps::{Array, MapData};
use aya::sys::SyscallError;
use bytemuck::Pod;
use flannel_common::Ipv4;
use flannel_common::flow::Tick;
use flannel_common::maps::{LASTING, SHARES, YOUNG};
use flannel_common::snat::{
    Entry, KIND_LEAVE, KIND_PAIR, Key, Lasting, Place, Seen, Share, Transport, WAY_OUT, is_a_pods,
};

use super::batch::Batches;
use super::bpffs::Pins;
use super::maps::pinned;
use super::{DataplaneError, Wire};

/// Flows in the table, by pod and by whether they came in.
#[derive(Debug, Default)]
pub(super) struct Counts(HashMap<(Ipv4, bool), u32>);

impl Counts {
    /// One entry of the table, which lives. A connection that has ended only waits for its last segments.
    pub(super) fn add(&mut self, key: &Key, entry: &Entry) {
        if Transport::of(key.proto) == Transport::Tcp && Seen(entry.seen).is_closing() {
            return;
        }
        if key.way == WAY_OUT && [KIND_PAIR, KIND_LEAVE].contains(&entry.kind) {
            let came_in = entry.kind == KIND_LEAVE;
            *self.0.entry((key.src, came_in)).or_default() += 1;
        }
    }

    fn of(&self, pod: Ipv4, came_in: bool) -> u32 {
        self.0.get(&(pod, came_in)).copied().unwrap_or_default()
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
    use flannel_common::snat::{Endpoint, KIND_OWN, WAY_IN};

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
        let pod = [10, 244, 1, 5];
        let to = Endpoint {
            addr: [192, 168, 0, 1],
            port: [200, 1],
        };
        let counted = |proto, seen| {
            let key = Key::of(pod, [198, 51, 100, 9], [1, 2, 0, 80], proto, WAY_OUT);
            let mut counts = Counts::default();
            counts.add(&key, &Entry::new(KIND_PAIR, to, seen, 0));
            counts.of(pod, false)
        };
        assert_eq!(counted(6, Seen::out(Seen::SYN | Seen::ACK)), 1);
        assert_eq!(counted(6, Seen::out(Seen::SYN | Seen::ACK | Seen::FIN)), 0);
        assert_eq!(counted(6, Seen::out(Seen::RST)), 0);
        assert_eq!(counted(17, Seen::out(Seen::ACK | Seen::FIN)), 1, "no TCP");
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
