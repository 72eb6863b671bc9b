//! Peers, as the agent writes them.

use aya::maps::HashMap;
use aya::maps::lpm_trie::{Key, LpmTrie};
use flannel_agent::dataplane::Wire;
use flannel_common::maps::{PEER_DIRECT, PEER_VXLAN, Peer, Vtep};
use flannel_common::{Ipv4, Mac, maps};

use super::fixture::Fixture;

impl Fixture {
    pub fn peer(&mut self, subnet: Ipv4, len: u32, public_ip: Ipv4, vtep_mac: Mac) {
        let peer = Peer {
            public_ip,
            next_hop: public_ip,
            vtep_mac,
            kind: PEER_VXLAN,
            narrow: 0,
        };
        self.insert_peer(subnet, len, peer);
        let map = self.ebpf.map_mut(maps::VTEPS).unwrap();
        HashMap::<_, Ipv4, Wire<Vtep>>::try_from(map)
            .unwrap()
            .insert(public_ip, Wire(Vtep { leases: 1 }), 0)
            .unwrap();
        let map = self.ebpf.map_mut(maps::MACS).unwrap();
        HashMap::<_, Mac, Wire<Vtep>>::try_from(map)
            .unwrap()
            .insert(vtep_mac, Wire(Vtep { leases: 1 }), 0)
            .unwrap();
    }

    /// A peer to which the routing table has the way.
    pub fn routed_peer(&mut self, subnet: Ipv4, len: u32, public_ip: Ipv4) {
        let peer = Peer {
            public_ip,
            next_hop: maps::ROUTED,
            vtep_mac: [2, 0, 0, 0, 0, 9],
            kind: PEER_VXLAN,
            narrow: 0,
        };
        self.insert_peer(subnet, len, peer);
    }

    /// A peer that is reached without a tunnel.
    pub fn direct_peer(&mut self, subnet: Ipv4, len: u32, public_ip: Ipv4) {
        let peer = Peer {
            public_ip,
            next_hop: public_ip,
            vtep_mac: [0; 6],
            kind: PEER_DIRECT,
            narrow: 0,
        };
        self.insert_peer(subnet, len, peer);
    }

    fn insert_peer(&mut self, subnet: Ipv4, len: u32, peer: Peer) {
        let map = self.ebpf.map_mut(maps::PEERS).unwrap();
        LpmTrie::<_, Ipv4, Wire<Peer>>::try_from(map)
            .unwrap()
            .insert(&Key::new(len, subnet), Wire(peer), 0)
            .unwrap();
    }

    pub fn remove_peer(&mut self, subnet: Ipv4, len: u32, public_ip: Ipv4) {
        let map = self.ebpf.map_mut(maps::PEERS).unwrap();
        let mut peers = LpmTrie::<_, Ipv4, Wire<Peer>>::try_from(map).unwrap();
        let Wire(peer) = peers.get(&Key::new(len, subnet), 0).unwrap();
        peers.remove(&Key::new(len, subnet)).unwrap();
        // What needs no tunnel has none.
        if peer.vtep_mac != [0; 6] {
            let map = self.ebpf.map_mut(maps::MACS).unwrap();
            HashMap::<_, Mac, Wire<Vtep>>::try_from(map)
                .unwrap()
                .remove(&peer.vtep_mac)
                .unwrap();
        }
        let map = self.ebpf.map_mut(maps::VTEPS).unwrap();
        HashMap::<_, Ipv4, Wire<Vtep>>::try_from(map)
            .unwrap()
            .remove(&public_ip)
            .unwrap();
    }
}
