//! What the tests of events need of the fixture: the switch, and what comes out.

use aya::maps::{Array, PerCpuArray, ProgramArray, RingBuf};
use aya::programs::SchedClassifier;
use bytemuck::pod_read_unaligned;
use flannel_agent::dataplane::Wire;
use flannel_agent::dataplane::verifier::patiently;
use flannel_common::event::{DROPS_ONLY, Event, Filter, Listen, TELLER};
use flannel_common::maps;

use super::Fixture;

impl Fixture {
    /// As a listener would: until a moment of the monotonic clock, to one packet in `mask` + 1.
    pub fn listen(&mut self, until: u64, mask: u32, drops_only: bool) {
        self.bring_teller();
        let flags = if drops_only { DROPS_ONLY } else { 0 };
        let listen = Listen { until, mask, flags };
        let map = self.ebpf.map_mut(maps::LISTEN).unwrap();
        let mut map = Array::<_, Wire<Listen>>::try_from(map).unwrap();
        map.set(0, Wire(listen), 0).unwrap();
    }

    /// To these packets alone.
    pub fn filter(&mut self, filter: Filter) {
        let map = self.ebpf.map_mut(maps::FILTER).unwrap();
        let mut map = Array::<_, Wire<Filter>>::try_from(map).unwrap();
        map.set(0, Wire(filter), 0).unwrap();
    }

    /// The program in which the others go on.
    pub fn teller(&mut self) -> &mut SchedClassifier {
        let program = self.ebpf.program_mut(TELLER).unwrap();
        let program: &mut SchedClassifier = program.try_into().unwrap();
        if program.fd().is_err() {
            patiently(|| program.load()).unwrap();
        }
        program
    }

    fn bring_teller(&mut self) {
        if self.teller.is_some() {
            return;
        }
        let fd = self.teller().fd().unwrap().try_clone().unwrap();
        let mut map = self.ebpf.take_map(maps::TELLER).unwrap();
        let mut slot = ProgramArray::try_from(&mut map).unwrap();
        slot.set(0, &fd, 0).unwrap();
        // The kernel empties a program array that nobody in user space holds.
        self.teller = Some(map);
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
