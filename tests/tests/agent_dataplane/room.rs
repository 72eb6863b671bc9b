//! One lease more than the maps hold.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use flannel_agent::base::mac::MacAddr;
use flannel_agent::dataplane::view::View;
use flannel_agent::dataplane::{Peer, ROOM};
use flannel_agent::reconcile::desired::Desired;
use ipnet::Ipv4Net;

use crate::rig::{Agent, Rig, words};

/// A /30 each, beside this node's own /24.
fn subnet(n: usize) -> Ipv4Net {
    let n = u32::try_from(n).unwrap();
    let base = u32::from_be_bytes([10, 245, 0, 0]);
    Ipv4Net::new((base + n * 4).into(), 30).unwrap()
}

fn peer(n: usize) -> Peer {
    let [.., high, low] = u32::try_from(n).unwrap().to_be_bytes();
    let public_ip = Ipv4Addr::new(192, 168, 128 | high >> 1, low);
    Peer {
        public_ip,
        next_hop: public_ip,
        vtep_mac: MacAddr([2, 0, 0, 0, high, low]),
        direct: false,
        by_stack: false,
        mtu: None,
    }
}

/// These peers. Their routes are not what this is about, and slow.
async fn desired(agent: &Agent<'_>, peers: impl Iterator<Item = usize>) -> Desired {
    let mut desired = agent.desired_for(&BTreeMap::new()).await;
    for n in peers {
        let peer = peer(n);
        *desired.peers.vteps.entry(peer.public_ip).or_default() += 1;
        *desired.peers.macs.entry(peer.vtep_mac).or_default() += 1;
        desired.peers.table.insert(subnet(n), peer);
    }
    agent.dataplane.fit(desired).unwrap()
}

fn held(agent: &Agent<'_>) -> BTreeMap<Ipv4Net, flannel_common::maps::Peer> {
    let view = View::open(&agent.rig.bpffs(), None).unwrap();
    view.peers().unwrap()
}

#[test]
fn one_lease_too_many_is_named_and_stops_nothing() {
    let rig = Rig::alone();
    rig.agent(async |agent| {
        // As many as there is room for, and one that comes before all in the table.
        let full = desired(agent, 1..=ROOM).await;
        words(&agent.dataplane.reconcile(&full).await.unwrap());
        assert_eq!(held(agent).len(), ROOM);
        let more = desired(agent, 0..=ROOM).await;
        words(&agent.dataplane.update_peers(&more).await.unwrap());
        assert_eq!(more.peers.ignored.len(), 1);
        assert!(more.peers.ignored.contains_key(&subnet(0)));
        let now = held(agent);
        assert!(now.len() == ROOM && !now.contains_key(&subnet(0)));

        // What is served still changes.
        let mut changed = desired(agent, 0..=ROOM).await;
        let moved = changed.peers.table.get_mut(&subnet(7)).unwrap();
        moved.next_hop = Ipv4Addr::new(192, 168, 0, 254);
        words(&agent.dataplane.update_peers(&changed).await.unwrap());
        assert_eq!(held(agent)[&subnet(7)].next_hop, [192, 168, 0, 254]);

        // Three go, and others come in their place.
        let room = desired(agent, (0..=ROOM + 2).filter(|n| ![10, 11, 12].contains(n))).await;
        words(&agent.dataplane.update_peers(&room).await.unwrap());
        let now = held(agent);
        assert_eq!((now.len(), room.peers.ignored.len()), (ROOM, 0));
        assert!(now.contains_key(&subnet(0)) && now.contains_key(&subnet(ROOM + 2)));
        // The kernel agrees, and who comes next keeps whom it finds.
        let left = agent.dataplane.reconcile(&room).await.unwrap();
        assert_eq!(words(&left), <[&str; 0]>::default());
    });
    rig.agent(async |agent| {
        let more = desired(agent, 0..=ROOM + 2).await;
        let ignored: Vec<_> = more.peers.ignored.keys().copied().collect();
        assert_eq!(ignored, [10, 11, 12].map(subnet));
        words(&agent.dataplane.reconcile(&more).await.unwrap());
        assert_eq!(held(agent).len(), ROOM);
    });
}
