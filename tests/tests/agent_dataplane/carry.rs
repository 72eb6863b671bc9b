//! Translated connections of an earlier layout, whose entries were shorter.

use std::path::Path;

use aya::maps::{HashMap, Map, MapData, MapInfo};
use bytemuck::Zeroable as _;
use flannel_agent::dataplane::Wire;
use flannel_common::maps::{LAYOUT_VERSION, SNAT};
use flannel_common::snat::{Endpoint, Entry, Former, KIND_PAIR, Key, Seen, Side, WAY_OUT};

use crate::rig::Rig;
use crate::snat::source_nat;

/// The last one without [`Entry::sides`].
const OLD: &str = "v9";

const OUT: Key = Key {
    src: [10, 244, 1, 5],
    dst: [198, 51, 100, 9],
    src_port: [1, 2],
    dst_port: [0, 80],
    proto: 6,
    way: WAY_OUT,
    pad: [0; 2],
};
const US: Endpoint = Endpoint {
    addr: [192, 168, 0, 1],
    port: [200, 1],
};

fn former(target: Endpoint, seen: Seen) -> Former {
    Former {
        addr: target.addr,
        port: target.port,
        kind: KIND_PAIR,
        seen: seen.0,
        last_seen: u64::MAX / 2,
        opened: 7,
    }
}

fn open(rig: &Rig, layout: &str) -> MapData {
    let pin = rig.pins().join(layout).join("maps").join(SNAT);
    MapData::from_pin(pin).unwrap()
}

#[test]
fn shorter_entries_go_on_with_nothing_known_of_their_sides() {
    let mut rig = Rig::new();
    rig.snat = Some(source_nat(&[]));
    rig.agent(async |agent| agent.converge().await);
    let maps = rig.pins().join(OLD).join("maps");
    std::fs::create_dir_all(&maps).unwrap();
    rig.netns.run(&format!(
        "bpftool map create {}/{SNAT} type lru_hash key 16 value 24 entries 64 name {SNAT}",
        maps.display()
    ));
    let halves = [
        (OUT, former(US, Seen::out(Seen::SYN | Seen::ACK))),
        (
            OUT.other_half(US),
            former(OUT.source(), Seen::back(Seen::ACK)),
        ),
    ];
    let old = Map::from_map_data(open(&rig, OLD)).unwrap();
    let mut old: HashMap<_, Wire<Key>, Wire<Former>> = old.try_into().unwrap();
    for (key, entry) in halves {
        old.insert(Wire(key), Wire(entry), 0).unwrap();
    }

    let did = rig.agent(async |agent| agent.converge().await);
    let carried = format!("carry translated connections over from layout {OLD}");
    assert!(
        did.iter().any(|action| action.contains(&carried)),
        "{did:?}"
    );
    let new = Map::from_map_data(open(&rig, &format!("v{LAYOUT_VERSION}"))).unwrap();
    let new: HashMap<_, Wire<Key>, Wire<Entry>> = new.try_into().unwrap();
    for (key, entry) in halves {
        let found = new.get(&Wire(key), 0).unwrap().0;
        assert_eq!(
            (found.addr, found.port, found.kind),
            (entry.addr, entry.port, KIND_PAIR)
        );
        assert_eq!(
            (found.seen, found.last_seen, found.opened),
            (entry.seen, entry.last_seen, 7)
        );
        assert_eq!(found.sides, [Side::NONE; 2]);
    }
}

/// A start with another size was killed, and the next one has the size of before: what runs has that table all the time.
#[test]
fn a_table_that_was_set_aside_for_nothing_comes_back() {
    let mut rig = Rig::new();
    rig.snat = Some(source_nat(&[]));
    rig.agent(async |agent| agent.converge().await);
    let layout = rig.pins().join(format!("v{LAYOUT_VERSION}"));
    let pin = layout.join("maps").join(SNAT);
    let id = |pin: &Path| MapInfo::from_pin(pin).unwrap().id();
    let before = id(&pin);
    let aside = rig.pins().join("was1");
    std::fs::create_dir_all(aside.join("maps")).unwrap();
    std::fs::rename(&pin, aside.join("maps").join(SNAT)).unwrap();
    rig.agent(async |agent| agent.converge().await);
    assert_eq!(id(&pin), before);
    assert!(!aside.exists());
}

/// It was killed while it carried: some are there, and the next start carries the rest.
#[test]
fn what_was_carried_in_part_is_carried_again() {
    let mut rig = Rig::new();
    rig.snat = Some(source_nat(&[]));
    rig.agent(async |agent| agent.converge().await);
    let maps = rig.pins().join("was1").join("maps");
    std::fs::create_dir_all(&maps).unwrap();
    rig.netns.run(&format!(
        "bpftool map create {}/{SNAT} type lru_hash key {} value {} entries 64 name {SNAT}",
        maps.display(),
        size_of::<Key>(),
        size_of::<Entry>()
    ));
    let entry = |target: Endpoint, opened| Entry {
        addr: target.addr,
        port: target.port,
        kind: KIND_PAIR,
        last_seen: u64::MAX / 2,
        opened,
        ..Entry::zeroed()
    };
    let table = |folder: &str| {
        let table = Map::from_map_data(open(&rig, folder)).unwrap();
        HashMap::<_, Wire<Key>, Wire<Entry>>::try_from(table).unwrap()
    };
    let now = format!("v{LAYOUT_VERSION}");
    let back = OUT.other_half(US);
    table(&now)
        .insert(Wire(OUT), Wire(entry(US, 2)), 0)
        .unwrap();
    for (key, target) in [(OUT, US), (back, OUT.source())] {
        table("was1")
            .insert(Wire(key), Wire(entry(target, 1)), 0)
            .unwrap();
    }
    let did = rig.agent(async |agent| agent.converge().await);
    let opened = |key| table(&now).get(&Wire(key), 0).unwrap().0.opened;
    assert_eq!((opened(OUT), opened(back)), (2, 1), "{did:?}");
    assert!(!rig.pins().join("was1").exists());
}
