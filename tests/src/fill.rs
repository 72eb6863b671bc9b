//! A node as full as it gets: leases and flows written straight into its maps.

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData};
use bytemuck::Zeroable as _;
use flannel_agent::dataplane::Wire;
use flannel_common::Ipv4;
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::maps::{FLOWS, LAYOUT_VERSION, PEER_VXLAN, PEERS, Peer};

use crate::node::Node;

/// The local end of every flow that is filled in.
pub const LOCAL: [u8; 4] = [10, 99, 0, 1];

/// The table of flows.
pub type FlowTable = HashMap<MapData, Wire<FlowKey>, Wire<Flow>>;

/// The pinned map of the default network.
///
/// # Panics
/// If there is none.
#[track_caller]
pub fn pinned(node: &Node, name: &str) -> Map {
    let folder = node.bpffs().join("flannel/coreos_com_network");
    let path = folder.join(format!("v{LAYOUT_VERSION}/maps")).join(name);
    Map::from_map_data(MapData::from_pin(path).expect("a pin")).expect("a map")
}

/// Adds leases of subnets 11.0.0.0/24, 11.0.1.0/24 and so on. No agent may run, who would remove them.
#[track_caller]
pub fn peers(node: &Node, count: u32) {
    let mut peers: LpmTrie<MapData, Ipv4, Wire<Peer>> =
        pinned(node, PEERS).try_into().expect("the map of peers");
    for number in 0..count {
        let peer = Peer {
            kind: PEER_VXLAN,
            ..Peer::zeroed()
        };
        let subnet = ((11 << 24) + (number << 8)).to_be_bytes();
        peers
            .insert(&Key::new(24, subnet), Wire(peer), 0)
            .expect("room for a peer");
    }
}

/// The table of flows, for whoever writes into it.
#[track_caller]
pub fn flow_table(node: &Node) -> FlowTable {
    pinned(node, FLOWS).try_into().expect("the map of flows")
}

/// The flow of [`LOCAL`] with the address of this number.
pub fn flow(number: u32) -> FlowKey {
    FlowKey {
        local: LOCAL,
        remote: number.to_be_bytes(),
        proto: 17,
        ..FlowKey::zeroed()
    }
}

/// Adds flows that were never proven.
#[track_caller]
pub fn flows(node: &Node, count: u32) {
    let mut table = flow_table(node);
    for number in 0..count {
        table
            .insert(Wire(flow(number)), Wire(Flow::EMPTY), 0)
            .expect("room for a flow");
    }
}
