//! Flows that are over leave the real table, while it is in use.

use std::sync::atomic::{AtomicBool, Ordering};

use aya::maps::{HashMap, Map, MapData};
use flannel_agent::base::clock;
use flannel_agent::dataplane::{SnatTable, Swept, Wire};
use flannel_common::maps::{ENDING, SNAT};
use flannel_common::snat::{
    Endpoint, Entry, KIND_LEAVE, KIND_OWN, KIND_PAIR, Key, NANOS, Seen, WAY_OUT,
};

use crate::rig::{Agent, NETWORK, Rig};

const UDP: u8 = 17;
const TCP: u8 = 6;
const US: [u8; 4] = [192, 168, 0, 1];

type Pinned = HashMap<MapData, Wire<Key>, Wire<Entry>>;

fn pinned(agent: &Agent<'_>) -> Pinned {
    let pin = agent.rig.map_pin(SNAT);
    Pinned::try_from(Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap()).unwrap()
}

fn table(agent: &Agent<'_>) -> SnatTable {
    SnatTable::open(&agent.rig.bpffs(), NETWORK)
        .unwrap()
        .unwrap()
}

fn out_key(proto: u8, port: u16) -> Key {
    Key {
        src: [10, 244, 1, 5],
        dst: [198, 51, 100, 9],
        src_port: port.to_be_bytes(),
        dst_port: [0, 53],
        proto,
        way: WAY_OUT,
        pad: [0; 2],
    }
}

/// Both halves of a flow whose last packet came in at `at`, after more than one out and one in.
fn open(map: &mut Pinned, key: Key, at: u64) {
    let us = Endpoint {
        addr: US,
        port: key.src_port,
    };
    let out = Entry::new(KIND_PAIR, us, Seen::out(Seen::ACK), at - 2 * NANOS);
    let back = Entry::new(KIND_PAIR, key.source(), Seen::back(Seen::ACK), at);
    map.insert(Wire(key), Wire(out), 0).unwrap();
    map.insert(Wire(key.reply_to(us)), Wire(back), 0).unwrap();
}

fn ports(map: &Pinned) -> Vec<u16> {
    let keys = map.keys().map(|key| key.unwrap().0);
    let mut ports: Vec<_> = keys
        .filter(|key| key.way == WAY_OUT)
        .map(|key| u16::from_be_bytes(key.src_port))
        .collect();
    ports.sort_unstable();
    ports
}

#[test]
fn both_halves_go_when_the_flow_is_over_and_not_before() {
    Rig::new().agent(async |agent| {
        agent.converge().await;
        let (mut map, mut table) = (pinned(agent), table(agent));
        let now = clock();
        open(&mut map, out_key(UDP, 1), now);
        open(&mut map, out_key(UDP, 2), now + 60 * NANOS);
        open(&mut map, out_key(TCP, 3), now);
        let swept = |entries, flows| Swept { entries, flows };
        assert_eq!(table.sweep(now).unwrap(), swept(6, 0));
        // UDP in use lives for 120 s, TCP for five days.
        assert_eq!(table.sweep(now + 119 * NANOS).unwrap(), swept(6, 0));
        assert_eq!(table.sweep(now + 121 * NANOS).unwrap(), swept(6, 1));
        assert_eq!(ports(&map), [2, 3]);
        assert_eq!(table.sweep(now + 181 * NANOS).unwrap(), swept(4, 1));
        assert_eq!(table.sweep(now + 432_001 * NANOS).unwrap(), swept(2, 1));
        assert_eq!(table.sweep(now).unwrap(), swept(0, 0));
    });
}

#[test]
fn notes_go_as_well() {
    Rig::new().agent(async |agent| {
        agent.converge().await;
        let (mut map, mut table) = (pinned(agent), table(agent));
        let now = clock();
        for (port, kind) in [(1, KIND_LEAVE), (2, KIND_OWN)] {
            let key = out_key(UDP, port);
            let entry = Entry::new(kind, key.source(), Seen::out(Seen::ACK), now);
            map.insert(Wire(key), Wire(entry), 0).unwrap();
        }
        assert_eq!(table.sweep(now + 29 * NANOS).unwrap().flows, 0);
        assert_eq!(table.sweep(now + 31 * NANOS).unwrap().flows, 2);
        assert_eq!(ports(&map), [0; 0]);
    });
}

/// Flows that open while the walk goes on, among thousands that are over: none of the living is lost.
#[test]
fn a_table_in_use_loses_none_of_the_living() {
    Rig::new().agent(async |agent| {
        agent.converge().await;
        let (mut map, mut table) = (pinned(agent), table(agent));
        let now = clock() + 1_000 * NANOS;
        for port in 1..200 {
            open(&mut map, out_key(UDP, port), now - 500 * NANOS);
        }
        let done = AtomicBool::new(false);
        let swept = std::thread::scope(|scope| {
            let sweeping = scope.spawn(|| {
                let mut flows = 0;
                loop {
                    let last = done.load(Ordering::Relaxed);
                    flows += table.sweep(now).unwrap().flows;
                    if last {
                        return flows;
                    }
                }
            });
            for port in 10_000..10_150 {
                open(&mut map, out_key(UDP, port), now);
            }
            done.store(true, Ordering::Relaxed);
            sweeping.join().unwrap()
        });
        assert_eq!(swept, 199);
        assert_eq!(ports(&map), (10_000..10_150).collect::<Vec<_>>());
    });
}

#[test]
fn what_is_not_pinned_is_no_table() {
    let rig = Rig::new();
    assert!(SnatTable::open(&rig.bpffs(), NETWORK).unwrap().is_none());
}

/// A program is taking its port over, or an agent was killed in the middle of it.
#[test]
fn a_flow_that_somebody_else_is_ending_is_left_to_them_for_a_second() {
    Rig::new().agent(async |agent| {
        agent.converge().await;
        let (mut map, mut table) = (pinned(agent), table(agent));
        let now = clock();
        let key = out_key(UDP, 50_000);
        open(&mut map, key, now - 200 * NANOS);
        let us = Endpoint {
            addr: US,
            port: key.src_port,
        };
        let pin = MapData::from_pin(agent.rig.map_pin(ENDING)).unwrap();
        let mut ending: HashMap<_, Wire<Key>, u64> =
            Map::from_map_data(pin).unwrap().try_into().unwrap();
        ending.insert(Wire(key.reply_to(us)), now, 0).unwrap();
        assert_eq!(table.sweep(now).unwrap().flows, 0);
        assert_eq!(ports(&map), [50_000]);
        assert_eq!(table.sweep(now + 2 * NANOS).unwrap().flows, 1);
        assert!(ports(&map).is_empty());
        assert_eq!(ending.keys().count(), 0);
    });
}
