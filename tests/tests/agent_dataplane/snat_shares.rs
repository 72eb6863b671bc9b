//! The agent counts what each pod has of the table of translated flows.

use aya::maps::{Array, HashMap, Map, MapData};
use bytemuck::Pod;
use flannel_agent::base::clock;
use flannel_agent::dataplane::{SnatTable, Wire};
use flannel_common::flow::tick;
use flannel_common::maps::{LASTING, SHARES, SNAT, YOUNG};
use flannel_common::snat::{
    Endpoint, Entry, KIND_LEAVE, KIND_PAIR, Key, Lasting, NANOS, Place, Seen, Share, WAY_OUT,
    most_of_one,
};

use crate::rig::{Agent, NETWORK, Rig};

const POD: [u8; 4] = [10, 244, 1, 5];
const UDP: u8 = 17;
/// Of the pod, and of connections to it.
const OUT: u32 = 5;
const CAME_IN: u32 = 5 + 2_048;

fn array<V: Pod>(agent: &Agent<'_>, name: &str) -> Array<MapData, Wire<V>> {
    let data = MapData::from_pin(agent.rig.map_pin(name)).unwrap();
    Array::try_from(Map::from_map_data(data).unwrap()).unwrap()
}

fn key(port: u16) -> Key {
    let [a, b] = port.to_be_bytes();
    Key::of(POD, [198, 51, 100, 9], [a, b, 0, 53], UDP, WAY_OUT)
}

#[test]
fn what_a_pod_has_is_counted_and_what_is_over_is_not() {
    Rig::new().agent(async |agent| {
        agent.converge().await;
        let data = MapData::from_pin(agent.rig.map_pin(SNAT)).unwrap();
        let map = Map::from_map_data(data).unwrap();
        let mut flows: HashMap<_, Wire<Key>, Wire<Entry>> = HashMap::try_from(map).unwrap();
        let now = clock();
        let old = now - 200 * NANOS;
        for port in 1..=20 {
            let us = Endpoint {
                addr: [192, 168, 0, 1],
                port: key(port).src_port,
            };
            // Of ten of them the last packet was long ago.
            let at = if port <= 10 { now } else { old };
            let out = Entry::new(KIND_PAIR, us, Seen::out(Seen::ACK), at);
            let back = Entry::new(KIND_PAIR, key(port).source(), Seen::back(Seen::ACK), at);
            flows.insert(Wire(key(port)), Wire(out), 0).unwrap();
            let back_key = key(port).reply_to(us);
            flows.insert(Wire(back_key), Wire(back), 0).unwrap();
        }
        let note = Entry::new(KIND_LEAVE, key(99).source(), Seen::back(Seen::ACK), now);
        flows.insert(Wire(key(99)), Wire(note), 0).unwrap();

        // Other nodes' pods, together.
        for (n, pod) in [
            (1, [10, 244, 2, 5]),
            (2, [10, 244, 2, 5]),
            (3, [10, 244, 3, 6]),
        ] {
            let key = Key::of(pod, [198, 51, 100, 9], [1, n, 0, 53], UDP, WAY_OUT);
            let us = Endpoint {
                addr: [192, 168, 0, 1],
                port: key.src_port,
            };
            let out = Entry::new(KIND_PAIR, us, Seen::out(Seen::ACK), now);
            flows.insert(Wire(key), Wire(out), 0).unwrap();
        }

        // One of the flows has a place, and one that is over; the programs' count of places is far off.
        let (mut shares, mut young) = (array::<Share>(agent, SHARES), array::<Place>(agent, YOUNG));
        let place = Place {
            key: key(1),
            share: OUT,
        };
        young.set(7, Wire(place), 0).unwrap();
        let over = Place {
            key: key(20),
            share: OUT,
        };
        young.set(8, Wire(over), 0).unwrap();
        for (index, pod) in [(OUT, POD), (CAME_IN, POD), (0, [10, 244, 2, 5])] {
            let share = Share {
                young: if index == OUT { 100_000 } else { 0 },
                ended: 3,
                pod,
            };
            shares.set(index, Wire(share), 0).unwrap();
        }

        let mut table = SnatTable::open(&agent.rig.bpffs(), NETWORK)
            .unwrap()
            .unwrap();
        let swept = table.sweep(now).unwrap();
        assert_eq!((swept.entries, swept.flows), (44, 10));
        let lasting = array::<Lasting>(agent, LASTING);
        let lasting = |index| lasting.get(&index, 0).unwrap().0;
        let counted = |flows, placed| Lasting {
            flows,
            placed,
            most: most_of_one(young.len()),
            at: tick(now),
        };
        assert_eq!(lasting(OUT), counted(9, 1), "one has a place");
        assert_eq!(lasting(CAME_IN), counted(1, 0));
        assert_eq!(lasting(0), counted(3, 0));
        assert_eq!(lasting(6), Lasting::default(), "nobody's");
        let share = shares.get(&OUT, 0).unwrap().0;
        assert_eq!((share.young, share.ended), (2, 3), "put right");
    });
}
