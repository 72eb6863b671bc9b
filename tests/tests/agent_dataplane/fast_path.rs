//! The fast path's side of the dataplane: programs follow pods, and proofs end with what they rest on.

use std::net::Ipv4Addr;

use aya::maps::{Array, Map, MapData};
use flannel_agent::base::mac::MacAddr;
use flannel_agent::base::options::FastPath;
use flannel_agent::flannel::lease::LeaseAttrs;
use flannel_common::maps::EPOCH;

use crate::rig::{Agent, Rig, sh};

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.fast_path = FastPath::default();
    rig
}

fn epoch(agent: &Agent<'_>) -> u32 {
    let pin = agent.rig.map_pin(EPOCH);
    let map = Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    let map: Array<_, u32> = map.try_into().unwrap();
    map.get(&0, 0).unwrap()
}

/// A bridge with one port, as the CNI plugin makes it.
fn add_pod(port: &str) {
    if std::process::Command::new("ip")
        .args(["link", "show", "cni0"])
        .output()
        .is_ok_and(|out| !out.status.success())
    {
        sh("ip link add cni0 type bridge");
    }
    sh(&format!(
        "ip link add {port} type veth peer name {port}-pod"
    ));
    sh(&format!("ip link set {port} master cni0"));
}

#[test]
fn programs_follow_the_ports_of_the_bridge() {
    rig().agent(async |agent| {
        agent.converge().await;
        add_pod("vetha");
        assert_eq!(
            agent.reconcile().await,
            [
                "attach bridge_rx to egress of cni0",
                "attach pod_rx to egress of vetha",
                "attach pod_tx to ingress of vetha"
            ]
        );
        assert_eq!(agent.reconcile().await, <[&str; 0]>::default());
        add_pod("vethb");
        let second = agent.reconcile().await;
        assert!(
            second.len() == 2 && second.iter().all(|did| did.ends_with("vethb")),
            "{second:?}"
        );
        for port in ["vetha", "vethb"] {
            sh(&format!("ip link del {port}"));
        }
        let gone = agent.reconcile().await;
        let off = |did: &&String| did.starts_with("detach bridge_rx");
        assert_eq!(gone.iter().filter(off).count(), 1, "{gone:?}");
    });
}

/// As pods do all the time: what is left gets its programs in the same pass.
#[test]
fn a_pod_that_vanishes_between_look_and_attachment_holds_up_nobody() {
    rig().agent(async |agent| {
        agent.converge().await;
        for port in ["vetha", "vethb", "vethc"] {
            add_pod(port);
        }
        let desired = agent.desired().await;
        sh("ip link del vetha");
        sh("ip link del vethc");
        assert_eq!(
            agent.reconcile_to(&desired).await,
            [
                "attach bridge_rx to egress of cni0",
                "attach pod_rx to egress of vethb",
                "attach pod_tx to ingress of vethb"
            ]
        );
        let did = agent.converge().await;
        assert!(did.iter().all(|did| !did.contains("vethb")), "{did:?}");
    });
}

#[test]
fn a_pod_that_goes_takes_its_pins_along_and_ends_the_proofs() {
    rig().agent(async |agent| {
        add_pod("vetha");
        agent.converge().await;
        let before = epoch(agent);
        sh("ip link del vetha");
        let did = agent.reconcile().await;
        assert_eq!(
            did.last().unwrap(),
            "end the proofs of all flows",
            "{did:?}"
        );
        assert_eq!(
            did.iter().filter(|d| d.starts_with("detach pod_")).count(),
            2,
            "{did:?}"
        );
        assert_eq!(epoch(agent), before + 1);
    });
}

/// Deleted and made again between two looks: the same name, another pod.
#[test]
fn a_port_that_came_back_under_its_old_name_is_another_pod() {
    rig().agent(async |agent| {
        add_pod("vetha");
        agent.converge().await;
        let before = epoch(agent);
        sh("ip link del vetha");
        add_pod("vetha");
        agent.reconcile().await;
        assert_eq!(epoch(agent), before + 1);
    });
}

#[test]
fn a_changed_lease_ends_proofs_and_a_new_one_does_not() {
    rig().agent(async |agent| {
        agent.converge().await;
        let before = epoch(agent);
        let mut leases = agent.rig.leases.clone();
        let at = |last| {
            LeaseAttrs::vxlan(
                Ipv4Addr::new(192, 168, 0, last),
                1,
                MacAddr([2, 0, 0, 0, 0, last]),
            )
        };

        leases.insert("10.244.3.0/24".parse().unwrap(), at(3));
        let desired = agent.desired_for(&leases).await;
        agent.dataplane.update_peers(&desired).await.unwrap();
        assert_eq!(epoch(agent), before, "a new peer has no flows");

        leases.insert("10.244.3.0/24".parse().unwrap(), at(4));
        let desired = agent.desired_for(&leases).await;
        agent.dataplane.update_peers(&desired).await.unwrap();
        assert_eq!(epoch(agent), before + 1, "a peer moved");

        leases.remove(&"10.244.3.0/24".parse().unwrap());
        let desired = agent.desired_for(&leases).await;
        agent.dataplane.update_peers(&desired).await.unwrap();
        assert_eq!(epoch(agent), before + 2, "a peer went");
    });
}

#[test]
fn a_restart_keeps_the_flow_table_and_ends_its_proofs() {
    let rig = rig();
    let first = rig.agent(async |agent| {
        agent.converge().await;
        epoch(agent)
    });
    rig.agent(async |agent| {
        agent.converge().await;
        assert_eq!(epoch(agent), first + 1);
    });
}

/// Another size of the flow table is another map: flows prove themselves again, nothing is misread.
#[test]
fn the_flow_table_can_be_resized() {
    let mut rig = rig();
    rig.agent(async |agent| agent.converge().await);
    rig.flow_entries = 16_384;
    rig.agent(async |agent| {
        agent.converge().await;
        let pin = agent.rig.map_pin(flannel_common::maps::FLOWS);
        let info = aya::maps::MapInfo::from_pin(pin).unwrap();
        assert_eq!(info.max_entries(), 16_384);
    });
}
