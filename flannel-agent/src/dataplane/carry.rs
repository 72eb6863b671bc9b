//! Translated connections from the maps of an earlier layout, or from a table of another size that was set aside, into ours.

use std::path::Path;

use aya::maps::{HashMap, Map, MapData, MapError};
use bytemuck::Pod;
use flannel_common::maps::{SNAT, carries_snat};
use flannel_common::snat::{Entry, Former, Key, Side, Times, is_over, other_half};

use super::batch::Batches;
use super::bpffs::{self, Pins};
use super::maps::is_absent;
use super::{DataplaneError, Wire, snat_maps};
use crate::base::clock;

/// `BPF_NOEXIST`: what is there already stays.
pub(super) const NO_EXIST: u64 = 1;

/// Whether the table in the folder of a layout, say `v3`, or of what was set aside is to be carried over: it is there, and means here
/// what it means there.
///
/// # Errors
/// If that cannot be found out: the folder goes with what is not carried.
pub(super) fn is_carried(pins: &Pins, folder: &str) -> Result<bool, DataplaneError> {
    let version = folder.strip_prefix('v').and_then(|v| v.parse().ok());
    let means_the_same = bpffs::is_aside(folder) || version.is_some_and(carries_snat);
    if !means_the_same {
        return Ok(false);
    }
    let path = pins.map_of(folder, SNAT);
    let is_there = path.try_exists();
    is_there.map_err(|error| DataplaneError::Pin { path, error })
}

/// Copies what is not here yet, and not over; returns how many entries that were. Nobody ages the old table once the programs have ours,
/// so what has ended here since may be there still, when this is done again.
pub(super) fn carry(pins: &Pins, folder: &str) -> Result<usize, DataplaneError> {
    let path = pins.map_of(folder, SNAT);
    let times = snat_maps::pinned_times(pins)?.or_default();
    let info = open(&path)?.info().map_err(failed("look at"))?;
    if info.value_size() as usize == size_of::<Former>() {
        return copy::<Former>(&path, pins, &times);
    }
    copy::<Entry>(&path, pins, &times)
}

type Table<E> = HashMap<MapData, Wire<Key>, Wire<E>>;

fn copy<Old: Pod + Into<Entry>>(
    path: &Path,
    pins: &Pins,
    times: &Times,
) -> Result<usize, DataplaneError> {
    let mut new: Table<Entry> = table(open(&pins.map(SNAT))?)?;
    let old: Table<Old> = table(open(path)?)?;
    // The same again: aya's typed one does not hand out what a walk needs.
    let whole = open(path)?;
    let unreadable = |error| failed("read")(MapError::IoError(error));
    let now = clock();
    let mut carried = 0;
    for batch in Batches::<Key, Old>::of(&whole).map_err(unreadable)? {
        for (key, entry) in batch.map_err(unreadable)? {
            let entry: Entry = entry.into();
            let mate = other_half(&key, &entry);
            let before = mate.map_or(Ok(None), |mate| held(&old, &mate))?;
            let here = mate.map_or(Ok(None), |mate| held(&new, &mate))?;
            let mates = Mates {
                before: before.map(Into::into),
                here,
            };
            if !is_worth_it(times, &key, &entry, &mates, now) {
                continue;
            }
            // What is said while the programs change is missed: of their sides nothing is known any more.
            let entry = Entry {
                sides: [Side::NONE; 2],
                ..entry
            };
            match new.insert(Wire(key), Wire(entry), NO_EXIST) {
                Ok(()) => carried += 1,
                Err(MapError::SyscallError(e))
                    if e.io_error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(error) => return Err(failed("write")(error)),
            }
        }
    }
    Ok(carried)
}

/// What the two tables hold under an entry's [`other_half`].
struct Mates {
    before: Option<Entry>,
    here: Option<Entry>,
}

/// Whether the flow lives, and is not another one here by now: its port may have been given to a new one, and one way without the other
/// would take that from it.
fn is_worth_it(times: &Times, key: &Key, entry: &Entry, mates: &Mates, now: u64) -> bool {
    let is_its = |mate: &Entry| mate.pairs_with(key.source_of_half());
    !is_over(times, key, entry, mates.before.as_ref(), now)
        && mates.here.as_ref().is_none_or(is_its)
}

fn held<E: Pod>(table: &Table<E>, key: &Key) -> Result<Option<E>, DataplaneError> {
    match table.get(&Wire(*key), 0) {
        Ok(Wire(entry)) => Ok(Some(entry)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(failed("read")(error)),
    }
}

fn table<E: Pod>(data: MapData) -> Result<Table<E>, DataplaneError> {
    let map = Map::from_map_data(data).map_err(failed("open"))?;
    HashMap::try_from(map).map_err(failed("open"))
}

fn open(pin: &Path) -> Result<MapData, DataplaneError> {
    MapData::from_pin(pin).map_err(failed("open"))
}

fn failed(what: &'static str) -> impl Fn(MapError) -> DataplaneError {
    move |error| DataplaneError::map(SNAT, what, error)
}

#[cfg(test)]
mod tests {
    use flannel_common::snat::{Endpoint, KIND_OWN, KIND_PAIR, NANOS, Seen, WAY_OUT};
    use rstest::rstest;

    use super::*;

    const NOW: u64 = 1_000_000 * NANOS;
    const OUT: Key = Key::of(
        [10, 244, 1, 5],
        [198, 51, 100, 9],
        [0x9c, 0x40, 0, 53],
        17,
        WAY_OUT,
    );
    const US: Endpoint = Endpoint {
        addr: [192, 0, 2, 1],
        port: [0xc0, 0],
    };
    const OTHER: Endpoint = Endpoint {
        addr: [10, 244, 1, 6],
        port: [0x9c, 0x41],
    };

    fn half(to: Endpoint, ago: u64) -> Entry {
        Entry::new(KIND_PAIR, to, Seen::default(), NOW - ago * NANOS)
    }

    fn is_carried(key: &Key, entry: &Entry, before: Option<Entry>, here: Option<Entry>) -> bool {
        is_worth_it(&Times::DEFAULT, key, entry, &Mates { before, here }, NOW)
    }

    /// By what a way of a flow of UDP finds of the other one: 30 s are its time.
    #[rstest]
    #[case::both(Some(half(OUT.source(), 1)), None, true)]
    #[case::the_other_is_here(Some(half(OUT.source(), 1)), Some(half(OUT.source(), 1)), true)]
    #[case::alone(None, None, true)]
    #[case::its_port_is_anothers(Some(half(OUT.source(), 1)), Some(half(OTHER, 1)), false)]
    fn one_way_is_carried_beside_its_own_other_way_alone(
        #[case] before: Option<Entry>,
        #[case] here: Option<Entry>,
        #[case] carried: bool,
    ) {
        assert_eq!(is_carried(&OUT, &half(US, 1), before, here), carried);
    }

    #[test]
    fn the_way_in_is_none_of_a_flow_that_has_another_port_by_now() {
        let back = OUT.reply_to(US);
        let entry = half(OUT.source(), 1);
        let elsewhere = Endpoint {
            port: [0xc0, 1],
            ..US
        };
        assert!(is_carried(&back, &entry, Some(half(US, 1)), None));
        assert!(is_carried(
            &back,
            &entry,
            Some(half(US, 1)),
            Some(half(US, 1))
        ));
        assert!(!is_carried(
            &back,
            &entry,
            Some(half(US, 1)),
            Some(half(elsewhere, 1))
        ));
    }

    #[test]
    fn what_is_over_is_not_carried() {
        let other = |ago| Some(half(OUT.source(), ago));
        assert!(!is_carried(&OUT, &half(US, 3_600), other(3_600), None));
        assert!(
            is_carried(&OUT, &half(US, 3_600), other(1), None),
            "the other way was in use"
        );
        let note = |ago: u64| Entry::new(KIND_OWN, US, Seen::default(), NOW - ago * NANOS);
        assert!(is_carried(&OUT, &note(1), None, None));
        assert!(!is_carried(&OUT, &note(3_600), None, None));
    }
}
