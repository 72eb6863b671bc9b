//! What the agent tells the programs while they run.

use aya::maps::{Array, HashMap};
use flannel_common::maps;

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
}
