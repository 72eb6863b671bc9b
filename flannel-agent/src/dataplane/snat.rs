//! The SNAT table, for whoever removes what is over.

use std::fmt;
use std::io;
use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use aya::sys::SyscallError;
use flannel_common::flow::tick;
use flannel_common::maps::{ENDING, SNAT, TIMES};
use flannel_common::snat::{
    Entry, Halves, Key, NANOS, Times, end_stray, is_stray, may_be_over, sweep,
};

use super::batch::Batches;
use super::bpffs::Pins;
use super::carry::NO_EXIST;
use super::maps::{gone, is_absent, pinned};
use super::snat_shares::{Counts, Shares};
use super::{DataplaneError, Wire, held};

/// A network's table, be it pinned or open in this process.
pub struct SnatTable {
    entries: Entries,
    /// The same map again: aya's typed one does not hand out what a walk needs.
    whole: MapData,
    shares: Shares,
    /// `None`: an earlier agent's programs run, which have none.
    times: Option<Array<MapData, Wire<Times>>>,
}

struct Entries {
    table: HashMap<MapData, Wire<Key>, Wire<Entry>>,
    ending: HashMap<MapData, Wire<Key>, u64>,
}

/// Whoever ends a flow has done so long before that, unless it was an agent that was killed.
const LONG_AGO: u64 = NANOS;

/// What one walk over the table found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Entries that were there, two for a translated flow.
    pub entries: usize,
    /// Flows of them that were over, and were removed.
    pub flows: usize,
}

impl fmt::Debug for SnatTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnatTable").finish_non_exhaustive()
    }
}

impl SnatTable {
    /// Opens the table of a network; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(bpffs: &Path, network: &str) -> Result<Option<Self>, DataplaneError> {
        let pins = Pins::of(bpffs, network);
        if !held::exists(SNAT, &pins) {
            return Ok(None);
        }
        let open = || held::open(SNAT, &pins).map_err(failed("open"));
        let map = Map::from_map_data(open()?).map_err(failed("open"))?;
        Ok(Some(Self {
            entries: Entries {
                table: HashMap::try_from(map).map_err(failed("open"))?,
                ending: pinned(ENDING, &pins)?,
            },
            whole: open()?,
            shares: Shares::open(&pins)?,
            times: match held::exists(TIMES, &pins) {
                true => Some(pinned(TIMES, &pins)?),
                false => None,
            },
        }))
    }

    /// Removes every flow that is over at `now` (nanoseconds of the programs' clock, [`clock`]). The table is not
    /// frozen: buckets are read one by one, and flows come and go meanwhile.
    ///
    /// # Errors
    /// If the map cannot be read or written.
    pub fn sweep(&mut self, now: u64) -> Result<Swept, DataplaneError> {
        let Self {
            entries,
            whole,
            shares,
            times,
        } = self;
        let times = times.as_ref().map(|map| map.get(&0, 0)).transpose();
        let times = times.map_err(|e| DataplaneError::map(TIMES, "read", e))?;
        let times = &times.map_or(Times::DEFAULT, |Wire(times)| times.or_default());
        entries.forget_the_killed(now)?;
        let mut swept = Swept::default();
        let mut counts = Counts::beside(shares.placed()?);
        for batch in Batches::<Key, Entry>::of(whole).map_err(unreadable)? {
            let batch = batch.map_err(unreadable)?;
            swept.entries += batch.len();
            for (key, entry) in &batch {
                if sweep(entries, times, key, entry, now)? {
                    swept.flows += 1;
                } else if !may_be_over(times, key, entry, now) || entries.get(key)?.is_some() {
                    counts.add(key, entry);
                }
            }
        }
        counts.complete();
        shares.counted(&counts, tick(now))?;
        Ok(swept)
    }

    /// Ends the flows to whose ports no reply gets any more, so that their next packet is given another one. Says how many.
    ///
    /// # Errors
    /// If the map cannot be read or written.
    pub fn end_strays(
        &mut self,
        reaches: impl Fn(u16) -> bool,
        now: u64,
    ) -> Result<usize, DataplaneError> {
        let mut ended = 0;
        for batch in Batches::<Key, Entry>::of(&self.whole).map_err(unreadable)? {
            for (key, entry) in &batch.map_err(unreadable)? {
                if is_stray(key, entry, &reaches) && end_stray(&mut self.entries, key, now)? {
                    ended += 1;
                }
            }
        }
        Ok(ended)
    }
}

fn unreadable(error: io::Error) -> DataplaneError {
    let error = SyscallError {
        call: "BPF_MAP_LOOKUP_BATCH",
        io_error: error,
    };
    failed("read")(error.into())
}

impl Halves for Entries {
    type Error = DataplaneError;

    fn get(&self, key: &Key) -> Result<Option<Entry>, DataplaneError> {
        match self.table.get(&Wire(*key), 0) {
            Ok(Wire(entry)) => Ok(Some(entry)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed("read")(error)),
        }
    }

    fn remove(&mut self, key: &Key) -> Result<bool, DataplaneError> {
        match self.table.remove(&Wire(*key)) {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(failed("remove")(error)),
        }
    }

    fn hold(&mut self, key: &Key, now: u64) -> Result<bool, DataplaneError> {
        match self.ending.insert(Wire(*key), now, NO_EXIST) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error)) if is_taken(&error) => Ok(false),
            Err(error) => Err(DataplaneError::map(ENDING, "write", error)),
        }
    }

    fn let_go(&mut self, key: &Key) -> Result<(), DataplaneError> {
        gone(self.ending.remove(&Wire(*key))).map_err(|e| DataplaneError::map(ENDING, "remove", e))
    }
}

impl Entries {
    fn forget_the_killed(&mut self, now: u64) -> Result<(), DataplaneError> {
        let all: Result<Vec<_>, _> = self.ending.iter().collect();
        let all = all.map_err(|e| DataplaneError::map(ENDING, "read", e))?;
        for (Wire(key), since) in all {
            if now.saturating_sub(since) > LONG_AGO {
                self.let_go(&key)?;
            }
        }
        Ok(())
    }
}

/// Somebody has the key, or the map is full of others.
fn is_taken(error: &SyscallError) -> bool {
    let full = [libc::EEXIST, libc::E2BIG];
    error
        .io_error
        .raw_os_error()
        .is_some_and(|e| full.contains(&e))
}

fn failed(what: &'static str) -> impl Fn(MapError) -> DataplaneError {
    move |error| DataplaneError::map(SNAT, what, error)
}
