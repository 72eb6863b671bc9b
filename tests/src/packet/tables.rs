//! What programs have counted and noted.

use aya::maps::{HashMap, PerCpuArray};
use bytemuck::Zeroable as _;
use flannel_agent::dataplane::Wire;
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::maps;
use flannel_common::program::Program;
use flannel_common::reason::Reason;
use flannel_common::source::{Sender, SenderKey};
use flannel_common::stats::{Count, Counters};

use super::fixture::Fixture;

impl Fixture {
    /// The sum of one counter over all CPUs.
    pub fn count(&self, program: Program, reason: Reason) -> Count {
        let map = self.ebpf.map(maps::STATS).unwrap();
        let map = PerCpuArray::<_, Wire<Counters>>::try_from(map).unwrap();
        let values = map.get(&(program as u32), 0).unwrap();
        values.iter().fold(Count::zeroed(), |sum, Wire(counters)| {
            let count = counters.get(reason);
            Count {
                packets: sum.packets + count.packets,
                bytes: sum.bytes + count.bytes,
            }
        })
    }

    /// Whose tunnel packets came from where no lease says.
    pub fn senders(&self) -> Vec<(SenderKey, Sender)> {
        let map = self.ebpf.map(maps::SENDERS).unwrap();
        HashMap::<_, Wire<SenderKey>, Wire<Sender>>::try_from(map)
            .unwrap()
            .iter()
            .map(|entry| entry.unwrap())
            .map(|(Wire(key), Wire(sender))| (key, sender))
            .collect()
    }

    pub fn flow(&self, key: &FlowKey) -> Option<Flow> {
        let map =
            HashMap::<_, Wire<FlowKey>, Wire<Flow>>::try_from(self.ebpf.map(maps::FLOWS).unwrap());
        map.unwrap().get(&Wire(*key), 0).ok().map(|Wire(flow)| flow)
    }

    pub fn flows(&self) -> Vec<(FlowKey, Flow)> {
        let map =
            HashMap::<_, Wire<FlowKey>, Wire<Flow>>::try_from(self.ebpf.map(maps::FLOWS).unwrap());
        map.unwrap()
            .iter()
            .map(|entry| entry.unwrap())
            .map(|(Wire(k), Wire(v))| (k, v))
            .collect()
    }

    pub fn set_flow(&mut self, key: &FlowKey, flow: &Flow) {
        let map = self.ebpf.map_mut(maps::FLOWS).unwrap();
        let mut map = HashMap::<_, Wire<FlowKey>, Wire<Flow>>::try_from(map).unwrap();
        map.insert(Wire(*key), Wire(*flow), 0).unwrap();
    }

    /// The reasons that were counted, with their packets.
    pub fn counted(&self, program: Program) -> Vec<(Reason, u64)> {
        Reason::ALL
            .iter()
            .map(|reason| (*reason, self.count(program, *reason).packets))
            .filter(|(_, packets)| *packets > 0)
            .collect()
    }
}
