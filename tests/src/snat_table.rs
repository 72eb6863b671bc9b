//! An agent's table of translated flows, for tests that look into it or make it older.

use aya::maps::{Array, HashMap, Map, MapData};
use flannel_agent::dataplane::Wire;
use flannel_common::maps::{SNAT, TIMES};
use flannel_common::snat::{Entry, KIND_PAIR, Key, NANOS, Times, WAY_OUT};

use crate::agent::Agent;
use crate::bpftool;

/// The pinned table.
pub struct SnatTable {
    map: HashMap<MapData, Wire<Key>, Wire<Entry>>,
    times: Array<MapData, Wire<Times>>,
}

impl std::fmt::Debug for SnatTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnatTable").finish_non_exhaustive()
    }
}

impl SnatTable {
    /// # Panics
    /// If it is not pinned.
    pub fn of(agent: &Agent) -> Self {
        let map = |name| {
            let pin = bpftool::map_pin(agent, name);
            let map = MapData::from_pin(&pin).unwrap_or_else(|e| panic!("{}: {e}", pin.display()));
            Map::from_map_data(map).expect("a map")
        };
        Self {
            map: map(SNAT).try_into().expect("a hash map"),
            times: map(TIMES).try_into().expect("an array"),
        }
    }

    /// Everything in it. Flows that come or go meanwhile may be missing.
    pub fn entries(&self) -> Vec<(Key, Entry)> {
        let keys = self.map.keys().filter_map(Result::ok);
        keys.filter_map(|key| Some((key.0, self.map.get(&key, 0).ok()?.0)))
            .collect()
    }

    /// The out halves of translated flows.
    pub fn flows(&self) -> Vec<(Key, Entry)> {
        let mut entries = self.entries();
        entries.retain(|(key, entry)| key.way == WAY_OUT && entry.kind == KIND_PAIR);
        entries
    }

    /// Empties it.
    pub fn clear(&mut self) {
        for (key, _) in self.entries() {
            // Gone meanwhile is fine.
            let _ = self.map.remove(&Wire(key));
        }
    }

    /// Makes the flows that `which` picks by their port (a pod's own, or the id of its ping) `seconds` older.
    pub fn age(&mut self, seconds: u64, which: impl Fn(&Key, u16) -> bool) {
        self.change(which, |entry| {
            // No older than the machine.
            let by = entry.last_seen.min(seconds * NANOS);
            Entry {
                opened: entry.opened.saturating_sub(by),
                last_seen: entry.last_seen - by,
                ..entry
            }
        });
    }

    /// Makes such flows begin `seconds` earlier.
    pub fn prolong(&mut self, seconds: u64, which: impl Fn(&Key, u16) -> bool) {
        self.change(which, |entry| Entry {
            opened: entry.opened.saturating_sub(seconds * NANOS),
            ..entry
        });
    }

    fn change(&mut self, which: impl Fn(&Key, u16) -> bool, to: impl Fn(Entry) -> Entry) {
        for (key, entry) in self.entries() {
            let own = match key.way {
                WAY_OUT => key.src_port,
                _ => entry.port,
            };
            if which(&key, u16::from_be_bytes(own)) {
                // Gone meanwhile is fine.
                let _ = self.map.insert(Wire(key), Wire(to(entry)), EXISTS);
            }
        }
    }

    /// How long flows live.
    pub fn times(&self) -> Times {
        self.times.get(&0, 0).expect("its element").0
    }
}

/// `BPF_EXIST`: never brings back what is gone.
const EXISTS: u64 = 2;
