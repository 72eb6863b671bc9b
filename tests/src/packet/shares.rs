//! Whose the places in the SNAT table are, for tests of floods.

use aya::maps::{Array, Map};
use bytemuck::Pod;
use flannel_agent::base::clock;
use flannel_agent::dataplane::Wire;
use flannel_common::Ipv4;
use flannel_common::flow::{Tick, tick};
use flannel_common::maps;
use flannel_common::snat::{Cluster, Lasting, Share, share};

use super::{Fixture, Node};

impl Fixture {
    /// A value of an array.
    pub fn map_value<V: Pod>(&mut self, name: &str, index: u32) -> V {
        let map: &mut Map = self.ebpf.map_mut(name).unwrap();
        let array = Array::<_, Wire<V>>::try_from(map).unwrap();
        array.get(&index, 0).unwrap().0
    }

    /// What a pod of this node has.
    pub fn share(&mut self, pod: Ipv4, came_in: bool) -> Share {
        self.map_value(maps::SHARES, share(&cluster(), pod, came_in))
    }

    /// As if the agent had counted.
    pub fn set_lasting(&mut self, pod: Ipv4, lasting: Lasting) {
        let map: &mut Map = self.ebpf.map_mut(maps::LASTING).unwrap();
        let mut array = Array::<_, Wire<Lasting>>::try_from(map).unwrap();
        let index = share(&cluster(), pod, false);
        array.set(index, Wire(lasting), 0).unwrap();
    }

    /// The programs' time.
    pub fn tick(&self) -> Tick {
        tick(clock())
    }
}

fn cluster() -> Cluster {
    let Node { network, .. } = Node::default();
    Cluster {
        network: u32::from_be_bytes(network.0),
        network_mask: 0xffff_0000,
        subnet: u32::from_be_bytes(Node::SUBNET),
        subnet_mask: 0xffff_ff00,
    }
}
