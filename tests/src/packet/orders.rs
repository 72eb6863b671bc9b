//! What the agent tells the programs while they run.

use aya::maps::{Array, HashMap, PerCpuArray, PerCpuValues};
use flannel_agent::dataplane::Wire;
use flannel_common::asked::{AGENT, Asked};
use flannel_common::crossing::{Crossing, SLOTS};
use flannel_common::tick::Tick;
use flannel_common::{Ipv4, maps};

use super::Fixture;
use crate::netns::Netns;

impl Fixture {
    /// The namespace of [`Node::load_among_peers`].
    ///
    /// # Panics
    /// If it is not in one.
    pub fn among_peers(&self) -> &Netns {
        self.among_peers.as_ref().expect("loaded among peers")
    }

    /// The agent has something against a device.
    pub fn unfit(&mut self, ifindex: u32) {
        let map = self.ebpf.map_mut(maps::UNFIT).unwrap();
        let mut map = HashMap::<_, u32, u32>::try_from(map).unwrap();
        map.insert(ifindex, 1, 0).unwrap();
    }

    pub fn fit(&mut self, ifindex: u32) {
        let map = self.ebpf.map_mut(maps::UNFIT).unwrap();
        let mut map = HashMap::<_, u32, u32>::try_from(map).unwrap();
        map.remove(&ifindex).unwrap();
    }

    pub fn bump_epoch(&mut self) {
        let mut map = Array::<_, u32>::try_from(self.ebpf.map_mut(maps::EPOCH).unwrap()).unwrap();
        let epoch = map.get(&0, 0).unwrap();
        map.set(0, epoch + 1, 0).unwrap();
    }

    /// The agent has last said so many ticks ago that it is there.
    pub fn agent_said(&mut self, ago: Tick) {
        let here = Asked {
            seen: self.tick().wrapping_sub(ago) | 1,
            ..Asked::default()
        };
        let map = self.ebpf.map_mut(maps::ASKED).unwrap();
        let mut map = HashMap::<_, Ipv4, Wire<Asked>>::try_from(map).unwrap();
        map.insert(AGENT, Wire(here), 0).unwrap();
    }

    /// Nothing was asked about what comes from an address, or goes there, which the programs have heard of.
    pub fn nothing_asked(&mut self, outer: Ipv4) {
        let map = self.ebpf.map_mut(maps::ASKED).unwrap();
        let mut map = HashMap::<_, Ipv4, Wire<Asked>>::try_from(map).unwrap();
        map.insert(outer, Wire(Asked::default()), 0).unwrap();
    }

    /// As if every packet that is in the stack had been there for so many ticks more.
    pub fn age_notes(&mut self, ticks: u32) {
        let map = self.ebpf.map_mut(maps::SLOT).unwrap();
        let mut map = PerCpuArray::<_, Wire<Crossing>>::try_from(map).unwrap();
        for place in 0..u32::try_from(SLOTS).unwrap() {
            let notes = map.get(&place, 0).unwrap();
            let aged = notes.iter().map(|Wire(note)| {
                let mut note = *note;
                if note.at != 0 {
                    note.at = note.at.wrapping_sub(ticks) | 1;
                }
                Wire(note)
            });
            let aged = PerCpuValues::try_from(aged.collect::<Vec<_>>()).unwrap();
            map.set(place, aged, 0).unwrap();
        }
    }
}
