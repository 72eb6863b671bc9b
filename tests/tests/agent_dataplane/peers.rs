//! Leases into maps.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use flannel_agent::base::mac::MacAddr;
use flannel_agent::dataplane::view::View;
use flannel_agent::flannel::lease::LeaseAttrs;
use ipnet::Ipv4Net;

use crate::rig::{Rig, words};

fn leases(count: u16) -> BTreeMap<Ipv4Net, LeaseAttrs> {
    (0..count)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            // A /28 each: 4,096 of them in the network beside this node's own /24.
            let subnet = u32::from_be_bytes([10, 244, 32, 0]) + u32::from(n) * 8;
            let attrs = LeaseAttrs::vxlan(
                Ipv4Addr::new(192, 168, 128 | high, low),
                1,
                MacAddr([2, 0, 0, 0, high, low]),
            );
            (Ipv4Net::new(subnet.into(), 29).unwrap(), attrs)
        })
        .collect()
}

#[test]
fn a_change_of_one_lease_touches_one_entry_and_one_route() {
    Rig::new().agent(async |agent| {
        agent.converge().await;
        let mut leases = agent.rig.leases.clone();
        let peer = LeaseAttrs::vxlan(
            Ipv4Addr::new(192, 168, 0, 3),
            1,
            MacAddr([2, 0, 0, 0, 0, 3]),
        );
        leases.insert("10.244.3.0/24".parse().unwrap(), peer);
        let desired = agent.desired_for(&leases).await;
        let report = agent.dataplane.update_peers(&desired).await.unwrap();
        assert_eq!(
            words(&report),
            [
                "update peers: 10.244.3.0/24 at 192.168.0.3 (02:00:00:00:00:03)",
                "add the route 10.244.3.0/24 by the tunnel",
            ]
        );
        let report = agent.dataplane.update_peers(&desired).await.unwrap();
        assert_eq!(words(&report), <[&str; 0]>::default());
        // The kernel agrees.
        let actual = agent.dataplane.actual(&desired).await.unwrap();
        assert_eq!(actual.peers, (&desired.peers).into());
        assert_eq!(agent.reconcile_to(&desired).await, <[&str; 0]>::default());
        leases.remove(&"10.244.2.0/24".parse().unwrap());
        let desired = agent.desired_for(&leases).await;
        let report = agent.dataplane.update_peers(&desired).await.unwrap();
        assert_eq!(
            words(&report),
            [
                "remove the route 10.244.2.0/24",
                "update peers: 10.244.2.0/24 gone",
            ],
            "the route first"
        );
    });
}

/// Found out when the route is made, without a look at all of them for each change.
#[test]
fn a_foreign_route_to_a_new_peer_s_subnet_stays_behind_ours() {
    let rig = Rig::new();
    rig.agent(async |agent| {
        agent.converge().await;
        crate::rig::sh("ip route add 10.244.3.0/24 dev eth0 proto static");
        let mut leases = agent.rig.leases.clone();
        let mac = MacAddr([2, 0, 0, 0, 0, 3]);
        let peer = LeaseAttrs::vxlan(Ipv4Addr::new(192, 168, 0, 3), 1, mac);
        leases.insert("10.244.3.0/24".parse().unwrap(), peer);
        let desired = agent.desired_for(&leases).await;
        let report = agent.dataplane.update_peers(&desired).await.unwrap();
        let in_front =
            "add the route 10.244.3.0/24 by the tunnel, in front of somebody else's (protocol 4), which stays";
        assert!(words(&report).contains(&in_front.to_owned()), "{report:?}");
        let way = crate::rig::sh("ip route get 10.244.3.5");
        assert!(way.contains("dev flannel.1"), "{way}");
        assert_eq!(agent.reconcile_to(&desired).await, <[&str; 0]>::default());
    });
}

#[test]
fn update_before_the_first_reconcile_does_everything() {
    Rig::new().agent(async |agent| {
        let desired = agent.desired().await;
        let report = agent.dataplane.update_peers(&desired).await.unwrap();
        assert!(words(&report)[0].starts_with("create flannel.1"));
    });
}

#[test]
fn thousands_of_leases_come_and_go() {
    let rig = Rig::new();
    rig.netns
        .run("ip route add 192.168.128.0/17 via 192.168.0.254");
    rig.agent(async |agent| {
        let many = leases(5000);
        let desired = agent.desired_for(&many).await;
        assert_eq!(desired.peers.table.len(), 5000);
        agent.dataplane.reconcile(&desired).await.unwrap();
        let actual = agent.dataplane.actual(&desired).await.unwrap();
        assert_eq!(actual.peers, (&desired.peers).into());
        let gateway = Ipv4Addr::new(192, 168, 0, 254);
        assert!(desired.peers.table.values().all(|p| p.next_hop == gateway));

        let few = leases(10);
        let desired = agent.desired_for(&few).await;
        agent.dataplane.update_peers(&desired).await.unwrap();
        let actual = agent.dataplane.actual(&desired).await.unwrap();
        assert_eq!(actual.peers.table.len(), 10);
        assert_eq!(actual.peers.vteps.len(), 10);
    });
}

#[test]
fn the_programs_count_by_reason() {
    Rig::new().agent(async |agent| {
        let stats = || View::open(&agent.rig.bpffs(), None).and_then(|view| view.stats());
        assert!(stats().is_err(), "nothing is loaded");
        agent.converge().await;
        let stats = stats().unwrap();
        assert!(stats.values().all(BTreeMap::is_empty), "{stats:?}");
    });
}
