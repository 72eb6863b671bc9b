//! What the tests of events need of the fixture: the switch, and what comes out.

use aya::maps::{Array, PerCpuArray, RingBuf};
use bytemuck::pod_read_unaligned;
use flannel_agent::dataplane::Wire;
use flannel_common::event::{Event, Listen};
use flannel_common::maps;

use super::Fixture;

impl Fixture {
    /// As a listener would: until a moment of the monotonic clock, to one packet in `mask` + 1.
    pub fn listen(&mut self, until: u64, mask: u32, drops_only: bool) {
        let listen = Listen {
            until,
            mask,
            drops_only: drops_only.into(),
        };
        let map = self.ebpf.map_mut(maps::LISTEN).unwrap();
        let mut map = Array::<_, Wire<Listen>>::try_from(map).unwrap();
        map.set(0, Wire(listen), 0).unwrap();
    }

    pub fn listens_until(&self) -> u64 {
        let map = self.ebpf.map(maps::LISTEN).unwrap();
        let map = Array::<_, Wire<Listen>>::try_from(map).unwrap();
        map.get(&0, 0).unwrap().0.until
    }

    /// The oldest event that was not taken yet.
    pub fn event(&mut self) -> Option<Event> {
        let map = self.ebpf.map_mut(maps::EVENTS).unwrap();
        let mut ring = RingBuf::try_from(map).unwrap();
        let item = ring.next()?;
        Some(pod_read_unaligned(&item))
    }

    pub fn lost_events(&self) -> u64 {
        let map = self.ebpf.map(maps::LOST).unwrap();
        let map = PerCpuArray::<_, u64>::try_from(map).unwrap();
        map.get(&0, 0).unwrap().iter().sum()
    }
}
