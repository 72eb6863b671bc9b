//! What the tests of SNAT need of the fixture: the steps in place, the table in sight.

use aya::maps::lpm_trie::{Key as Prefix, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, ProgramArray};
use flannel_agent::dataplane::Wire;
use flannel_common::cidr;
use flannel_common::maps;
use flannel_common::program::Program;
use flannel_common::snat::{
    Choice, Choices, Entry, Key, Lent, NANOS, Times, WAY_IN, WAY_OUT, is_over, other_half,
};
use flannel_common::{Ipv4, Mac};

use super::outside::{assert_checksums, source};
use super::{Fixture, Node, UNSPEC};

impl Node {
    /// [`Node::load`] for the programs of SNAT, which go on in others.
    pub fn load_snat(&self) -> Fixture {
        let mut fixture = self.load();
        let mut map = fixture.ebpf.take_map(maps::STEPS).unwrap();
        let mut steps = ProgramArray::try_from(&mut map).unwrap();
        for program in Program::STEPS {
            let fd = fixture.program(program).fd().unwrap().try_clone().unwrap();
            steps.set(program.step(), &fd, 0).unwrap();
        }
        // The kernel empties a program array that nobody in user space holds.
        fixture.steps = Some(map);
        fixture
    }
}

impl Fixture {
    fn table(&mut self) -> HashMap<&mut aya::maps::MapData, Wire<Key>, Wire<Entry>> {
        let map: &mut Map = self.ebpf.map_mut(maps::SNAT).unwrap();
        HashMap::try_from(map).unwrap()
    }

    /// Everything the SNAT table holds.
    pub fn snat_entries(&mut self) -> Vec<(Key, Entry)> {
        let table = self.table();
        let entries = table.iter().map(|entry| entry.unwrap());
        let mut entries: Vec<_> = entries.map(|(Wire(k), Wire(v))| (k, v)).collect();
        entries.sort_by_key(|(key, _)| *key);
        entries
    }

    /// The two keys of the one flow in the table: out, in.
    pub fn snat_halves(&mut self) -> (Key, Key) {
        let keys: Vec<Key> = self.snat_entries().iter().map(|e| e.0).collect();
        let of = |way| *keys.iter().find(|key| key.way == way).unwrap();
        (of(WAY_OUT), of(WAY_IN))
    }

    /// The seconds for which the agent would keep some of the table after the last packet.
    pub fn snat_lifetime(&mut self) -> u64 {
        self.snat_lifetime_up_to(1_000_000)
    }

    /// The same where it is less than that.
    pub fn snat_lifetime_up_to(&mut self, most: u64) -> u64 {
        let entries = self.snat_entries();
        let times: Times = self.map_value(maps::TIMES, 0);
        let now = entries.iter().map(|e| e.1.last_seen).max().unwrap();
        let over = |seconds: u64| {
            entries.iter().all(|(key, entry)| {
                let other =
                    other_half(key, entry).and_then(|other| entries.iter().find(|e| e.0 == other));
                is_over(
                    &times,
                    key,
                    entry,
                    other.map(|e| &e.1),
                    now + seconds * NANOS,
                )
            })
        };
        // Whoever is over stays so.
        let (mut lives, mut is_over) = (0, most);
        assert!(over(is_over), "it lives for longer than {most} s");
        while is_over - lives > 1 {
            let between = lives.midpoint(is_over);
            match over(between) {
                true => is_over = between,
                false => lives = between,
            }
        }
        lives
    }

    /// As the agent tells the programs what the node's conntrack has.
    pub fn set_snat_times(&mut self, times: &Times) {
        let map: &mut Map = self.ebpf.map_mut(maps::TIMES).unwrap();
        let mut array = Array::<_, Wire<Times>>::try_from(map).unwrap();
        array.set(0, Wire(*times), 0).unwrap();
    }

    /// As the LRU would take it.
    pub fn evict_snat(&mut self, key: &Key) {
        self.table().remove(&Wire(*key)).unwrap();
    }

    /// Overwrites an entry, to make it old, say.
    pub fn set_snat(&mut self, key: &Key, entry: &Entry) {
        self.table().insert(Wire(*key), Wire(*entry), 0).unwrap();
    }

    /// As if another CPU were about to end the flow whose in half has this key.
    pub fn holds_snat(&mut self, key: &Key) {
        self.ending().insert(Wire(*key), 1, 0).unwrap();
    }

    pub fn lets_go_of_snat(&mut self, key: &Key) {
        self.ending().remove(&Wire(*key)).unwrap();
    }

    fn ending(&mut self) -> HashMap<&mut MapData, Wire<Key>, u64> {
        let map = self.ebpf.map_mut(maps::ENDING).unwrap();
        HashMap::try_from(map).unwrap()
    }

    /// Makes every entry `seconds` older.
    pub fn age_snat(&mut self, seconds: u64) {
        for (key, entry) in self.snat_entries() {
            let old = Entry {
                opened: entry.opened - seconds * NANOS,
                last_seen: entry.last_seen - seconds * NANOS,
                ..entry
            };
            self.set_snat(&key, &old);
        }
    }

    /// As if somebody had removed it by hand.
    pub fn remove_step(&mut self, program: Program) {
        let map = self.steps.as_mut().expect("loaded with its steps");
        let mut steps = ProgramArray::try_from(map).unwrap();
        steps.clear_index(&program.step()).unwrap();
    }

    /// Makes every flow begin `nanos` earlier.
    pub fn prolong_snat(&mut self, nanos: u64) {
        for (key, entry) in self.snat_entries() {
            let longer = Entry {
                opened: entry.opened - nanos,
                ..entry
            };
            self.set_snat(&key, &longer);
        }
    }

    /// Makes every flow begin long ago, and its last packet come when the next one does, whenever that is.
    pub fn keep_snat_lasting(&mut self) {
        for (key, entry) in self.snat_entries() {
            let lasting = Entry {
                opened: 1,
                last_seen: u64::MAX / 2,
                ..entry
            };
            self.set_snat(&key, &lasting);
        }
    }

    pub fn clear_snat(&mut self) {
        for (key, _) in self.snat_entries() {
            self.evict_snat(&key);
        }
    }

    /// Runs `uplink_tx` on a pod's packet that must not be dropped; returns the source it leaves with.
    pub fn leaves(&mut self, packet: &[u8]) -> (Ipv4, u16) {
        let out = self.run(Program::UplinkTx, packet);
        assert_eq!(out.action, UNSPEC);
        assert_checksums(&out.packet);
        source(&out.packet)
    }

    /// Tells the address that packets leave with on the device of a test run, when it is not the uplink.
    pub fn outlet(&mut self, address: Ipv4) {
        self.lends(&[(address, 24)]);
    }

    /// The addresses of the device of a test run, with their prefix lengths, in the kernel's order.
    pub fn lends(&mut self, addresses: &[(Ipv4, u8)]) {
        let mut all = addresses.iter().map(|(address, len)| {
            let mask = cidr::mask(*len);
            let link = u32::from_be_bytes(*address) & mask;
            let [link, mask] = [link, mask].map(u32::to_be_bytes);
            Choice {
                address: *address,
                link,
                mask,
            }
        });
        let choices = Choices::new(all.next().unwrap(), all);
        let map = self.ebpf.map_mut(maps::OUTLETS).unwrap();
        HashMap::<_, u32, Wire<Choices>>::try_from(map)
            .unwrap()
            .insert(1, Wire(choices), 0)
            .unwrap();
        let map = self.ebpf.map_mut(maps::LENT).unwrap();
        let mut lent = HashMap::<_, Wire<Lent>, u32>::try_from(map).unwrap();
        let before: Vec<_> = lent.keys().map(Result::unwrap).collect();
        for key in before {
            lent.remove(&key).unwrap();
        }
        for (address, _) in addresses {
            for ifindex in [0, 1] {
                let address = *address;
                lent.insert(Wire(Lent { ifindex, address }), 1, 0).unwrap();
            }
        }
    }

    /// The device of a test run, which lends already, is a bridge.
    pub fn device_is_tracked(&mut self) {
        let map = self.ebpf.map_mut(maps::OUTLETS).unwrap();
        let mut outlets = HashMap::<_, u32, Wire<Choices>>::try_from(map).unwrap();
        let Wire(choices) = outlets.get(&1, 0).unwrap();
        outlets.insert(1, Wire(choices.tracked(true)), 0).unwrap();
    }

    /// The device of a test run, which lends already, has this MAC.
    pub fn device_has_mac(&mut self, mac: Mac) {
        let map = self.ebpf.map_mut(maps::OUTLETS).unwrap();
        let mut outlets = HashMap::<_, u32, Wire<Choices>>::try_from(map).unwrap();
        let Wire(choices) = outlets.get(&1, 0).unwrap();
        outlets.insert(1, Wire(choices.with_mac(mac)), 0).unwrap();
    }

    /// Moves what the device of a test run lends to another one, of which it knows nothing.
    pub fn lent_elsewhere(&mut self) {
        let map = self.ebpf.map_mut(maps::OUTLETS).unwrap();
        HashMap::<_, u32, Wire<Choices>>::try_from(map)
            .unwrap()
            .remove(&1)
            .unwrap();
        let map = self.ebpf.map_mut(maps::LENT).unwrap();
        let mut lent = HashMap::<_, Wire<Lent>, u32>::try_from(map).unwrap();
        let here: Vec<_> = lent.keys().map(Result::unwrap).collect();
        for Wire(key) in here.into_iter().filter(|key| key.0.ifindex == 1) {
            lent.remove(&Wire(key)).unwrap();
            lent.insert(Wire(Lent { ifindex: 98, ..key }), 1, 0)
                .unwrap();
        }
    }

    /// Lets pods keep their address towards a prefix.
    pub fn exempt(&mut self, addr: Ipv4, len: u32) {
        let map = self.ebpf.map_mut(maps::EXEMPT).unwrap();
        LpmTrie::<_, Ipv4, u8>::try_from(map)
            .unwrap()
            .insert(&Prefix::new(len, addr), 1, 0)
            .unwrap();
    }
}
