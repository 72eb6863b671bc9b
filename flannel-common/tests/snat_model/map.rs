//! A table in memory, with evictions at will.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::rc::Rc;

use flannel_common::snat::{
    Claim, Endpoint, Entry, Halves, Key, Packet, Seen, Side, Slot, Table, Times, hear, locate,
    sweep,
};

type Meanwhile = Box<dyn FnOnce(&Map)>;

/// The map, with evictions at will.
#[derive(Default)]
pub(crate) struct Map {
    cells: RefCell<BTreeMap<Key, Rc<Cell<Entry>>>>,
    random: Cell<u32>,
    held: RefCell<BTreeSet<Key>>,
    /// Runs before the n-th operation from now: another CPU, or the LRU, in the middle of a decision.
    meanwhile: RefCell<Option<(u32, Meanwhile)>>,
}

impl Map {
    fn step(&self) {
        let due = {
            let mut meanwhile = self.meanwhile.borrow_mut();
            match meanwhile.take() {
                Some((0, act)) => Some(act),
                Some((n, act)) => {
                    *meanwhile = Some((n - 1, act));
                    None
                }
                None => None,
            }
        };
        if let Some(act) = due {
            act(self);
        }
    }

    /// Has `act` run before the `nth` operation from now.
    pub(crate) fn before(&self, nth: u32, act: impl FnOnce(&Map) + 'static) {
        *self.meanwhile.borrow_mut() = Some((nth, Box::new(act)));
    }

    /// Forgets what [`Map::before`] has not run.
    pub(crate) fn in_peace(&self) {
        self.meanwhile.borrow_mut().take();
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Entry> {
        self.cells.borrow().get(key).map(|cell| cell.get())
    }

    /// Whether the half under `key` names `to`.
    pub(crate) fn pairs(&self, key: &Key, to: Endpoint) -> bool {
        self.get(key).is_some_and(|entry| entry.pairs_with(to))
    }

    pub(crate) fn evict(&self, nth: usize) -> Option<Key> {
        let mut cells = self.cells.borrow_mut();
        let at = nth.checked_rem(cells.len())?;
        let key = *cells.keys().nth(at)?;
        cells.remove(&key);
        Some(key)
    }

    pub(crate) fn sweep(&self, now: u64) {
        let keys: Vec<Key> = self.cells.borrow().keys().copied().collect();
        for key in keys {
            let Some(entry) = self.get(&key) else {
                continue;
            };
            let Ok(_) = sweep(&mut &*self, &Times::DEFAULT, &key, &entry, now);
        }
    }
}

impl Halves for &Map {
    type Error = Infallible;

    fn get(&self, key: &Key) -> Result<Option<Entry>, Infallible> {
        self.step();
        Ok(Map::get(self, key))
    }

    fn hold(&mut self, key: &Key, now: u64) -> Result<bool, Infallible> {
        Ok(Table::hold(*self, key, now))
    }

    fn let_go(&mut self, key: &Key) -> Result<(), Infallible> {
        Table::let_go(*self, key);
        Ok(())
    }

    fn remove(&mut self, key: &Key) -> Result<bool, Infallible> {
        Ok(Table::remove(*self, key))
    }
}

pub(crate) struct Held(Rc<Cell<Entry>>);

impl Slot for Held {
    fn get(&self) -> Entry {
        self.0.get()
    }

    fn side(&self, nth: usize) -> Side {
        self.get().sides[nth]
    }

    fn note(&self, nth: usize, side: &Side) {
        let mut entry = self.0.get();
        entry.sides[nth] = *side;
        self.0.set(entry);
    }

    fn tell(&self, nth: usize, side: &Side) {
        let asked = self.side(nth).asked;
        self.note(nth, &Side { asked, ..*side });
    }

    fn end(&self, shown: Seen) {
        let entry = self.0.get();
        self.0.set(Entry {
            seen: Seen(entry.seen).and(shown).0,
            ..entry
        });
    }

    fn touch(&self, packet: Seen, now: u64) {
        let entry = self.0.get();
        self.0.set(Entry {
            seen: Seen(entry.seen).then(packet).0,
            last_seen: now,
            ..entry
        });
    }

    fn restart(&self, packet: Seen, now: u64) {
        self.0.set(Entry {
            seen: packet.0,
            last_seen: now,
            ..self.0.get()
        });
    }
}

impl Table for Map {
    type Slot = Held;

    fn find(&self, key: &Key) -> Option<Held> {
        self.step();
        self.cells
            .borrow()
            .get(key)
            .map(|cell| Held(Rc::clone(cell)))
    }

    fn claim(&self, key: &Key, entry: &Entry) -> Claim {
        self.step();
        let mut cells = self.cells.borrow_mut();
        if cells.contains_key(key) {
            return Claim::TAKEN;
        }
        cells.insert(*key, Rc::new(Cell::new(*entry)));
        Claim::WON
    }

    fn remove(&self, key: &Key) -> bool {
        self.step();
        self.cells.borrow_mut().remove(key).is_some()
    }

    fn hold(&self, key: &Key, _: u64) -> bool {
        self.step();
        self.held.borrow_mut().insert(*key)
    }

    fn let_go(&self, key: &Key) {
        self.step();
        self.held.borrow_mut().remove(key);
    }

    fn lifetime(&self, proto: u8, seen: Seen, length: u64) -> u64 {
        Times::DEFAULT.lifetime(proto, seen, length)
    }

    fn is_lent(&self, _: u32, _: [u8; 4]) -> bool {
        false
    }

    fn yields(&self, _: &Key, _: Seen, _: u64, _: u64) -> bool {
        false
    }

    fn hear(&self, packet: &Packet, slots: (&Held, &Held), reopens: u32, now: u64) {
        locate(packet, slots);
        hear(packet, slots, reopens, now);
    }

    fn random(&self) -> u32 {
        let next = self
            .random
            .get()
            .wrapping_mul(747_796_405)
            .wrapping_add(2_891_336_453);
        self.random.set(next);
        next
    }
}
