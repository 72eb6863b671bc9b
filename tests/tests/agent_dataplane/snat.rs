//! Source NAT's side of the dataplane: hooks in their order, steps to jump to, exempt destinations.

use std::collections::BTreeSet;

use aya::programs::{SchedClassifier, TcAttachType};
use flannel_agent::dataplane::AttachMode;
use flannel_agent::node::snat_ports::{PortChoice, PortRange};
use flannel_agent::reconcile::desired::SourceNat;
use flannel_common::maps::{EXEMPT, FRAGMENTS, LENT, OUTLETS, SNAT, STEPS};
use flannel_common::program::Program;
use flannel_tests::wait::{SOON, eventually};
use rstest::rstest;

use crate::rig::{Rig, sh};

const ALL_STEPS: usize = Program::STEPS.len();

const HOOKS: [&str; 4] = [
    "attach overlay_snat_rx to ingress of flannel.1",
    "attach overlay_snat_tx to egress of flannel.1",
    "attach uplink_snat_rx to ingress of eth0",
    "attach uplink_tx to egress of eth0",
];

pub(crate) fn source_nat(exempt: &[&str]) -> SourceNat {
    SourceNat {
        ports: PortChoice::Fixed(PortRange {
            min: 49_152,
            max: 65_535,
        }),
        keeps_ports: false,
        exempt: exempt.iter().map(|net| net.parse().unwrap()).collect(),
    }
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.snat = Some(source_nat(&["172.16.0.0/12", "192.168.0.0/24"]));
    rig
}

/// Names of the programs on a tcx hook, in the order in which they see a packet.
fn order(device: &str, direction: TcAttachType) -> Vec<String> {
    let (_, programs) = SchedClassifier::query_tcx(device, direction).unwrap();
    let name = |info: &aya::programs::ProgramInfo| info.name_as_str().unwrap().to_owned();
    programs.iter().map(name).collect()
}

fn dump(rig: &Rig, map: &str) -> serde_json::Value {
    let pin = rig.map_pin(map);
    serde_json::from_str(&sh(&format!(
        "bpftool -j map dump pinned {}",
        pin.display()
    )))
    .unwrap()
}

fn entries(rig: &Rig, map: &str) -> usize {
    // Arrays list empty places, too.
    let all = dump(rig, map);
    let empty = |entry: &&serde_json::Value| entry["value"].get("error").is_none();
    all.as_array().unwrap().iter().filter(empty).count()
}

#[test]
fn what_leaves_is_translated_before_anybody_else_sees_it() {
    rig().agent(async |agent| {
        agent.converge().await;
        use TcAttachType::{Egress, Ingress};
        assert_eq!(
            order("flannel.1", Egress),
            ["overlay_snat_tx", "overlay_tx"]
        );
        assert_eq!(order("flannel.1", Ingress), ["overlay_snat_rx"]);
        assert_eq!(order("eth0", Egress), ["uplink_tx"]);
        assert_eq!(order("eth0", Ingress), ["uplink_rx", "uplink_snat_rx"]);
    });
}

#[test]
fn without_tcx_priorities_make_the_order() {
    let mut rig = rig();
    rig.attach = AttachMode::Clsact;
    rig.agent(async |agent| agent.converge().await);
    let did = rig.agent(async |agent| agent.converge().await);
    assert!(did.iter().all(|a| !a.starts_with("detach")), "{did:?}");
    rig.netns.enter(|| {
        let shown = sh("tc filter show dev flannel.1 egress");
        let at = |name: &str| shown.find(name).unwrap();
        assert!(at("pref 101") < at("overlay_snat_tx"), "{shown}");
        assert!(at("overlay_snat_tx") < at(" overlay_tx"), "{shown}");
    });
    rig.snat = None;
    rig.agent(async |agent| agent.converge().await);
    rig.netns.enter(|| {
        let shown =
            sh("tc filter show dev flannel.1 egress") + &sh("tc filter show dev eth0 egress");
        assert!(
            !shown.contains("_snat_") && !shown.contains("uplink_tx"),
            "{shown}"
        );
        assert!(shown.contains("overlay_tx"), "{shown}");
    });
}

#[test]
fn switched_on_and_off_it_leaves_the_rest_alone() {
    let mut rig = Rig::new();
    rig.agent(async |agent| agent.converge().await);
    let pins = |rig: &Rig| -> BTreeSet<_> {
        let links = std::fs::read_dir(rig.pins().join("links")).unwrap();
        links.map(|link| link.unwrap().file_name()).collect()
    };
    let before = pins(&rig);

    rig.snat = Some(source_nat(&[]));
    let did = rig.agent(async |agent| agent.converge().await);
    let at = |word: &str| did.iter().position(|a| a == word).unwrap();
    let first = HOOKS.map(at).into_iter().min().unwrap();
    assert!(at("set the steps of source NAT") < first, "{did:?}");
    assert!(pins(&rig).is_superset(&before));
    assert_eq!(pins(&rig).len(), before.len() + HOOKS.len());
    rig.netns
        .enter(|| assert_eq!(entries(&rig, STEPS), ALL_STEPS));

    rig.snat = None;
    let did = rig.agent(async |agent| agent.converge().await);
    let gone = did.iter().filter(|a| a.starts_with("detach ")).count();
    assert_eq!(gone, HOOKS.len(), "{did:?}");
    assert_eq!(did.last().unwrap(), "clear the steps of source NAT");
    assert_eq!(pins(&rig), before);
    rig.netns.enter(|| assert_eq!(entries(&rig, STEPS), 0));
}

#[test]
fn tables_have_room_only_while_it_is_on() {
    let mut rig = rig();
    let sizes = |rig: &Rig| {
        [SNAT, FRAGMENTS].map(|map| {
            let info = aya::maps::MapInfo::from_pin(rig.map_pin(map)).unwrap();
            info.max_entries()
        })
    };
    rig.agent(async |agent| agent.converge().await);
    assert_eq!(sizes(&rig), [8192, 16_384]);
    rig.snat = None;
    rig.agent(async |agent| agent.converge().await);
    assert_eq!(sizes(&rig), [1024, 1024]);
}

/// Live programs jump through the same map all the time.
#[test]
fn a_restart_swaps_steps_and_programs_and_keeps_the_flows() {
    let rig = rig();
    let (first, map) = rig.agent(async |agent| {
        agent.converge().await;
        let info = aya::maps::MapInfo::from_pin(agent.rig.map_pin(SNAT)).unwrap();
        (dump(agent.rig, STEPS), info.id())
    });
    rig.agent(async |agent| {
        let did = agent.converge().await;
        let at = |word: &str| did.iter().position(|a| a == word).unwrap();
        assert!(at("set the steps of source NAT") < at(HOOKS[3]), "{did:?}");
        assert!(did.iter().all(|a| !a.starts_with("detach")), "{did:?}");
        let second = dump(agent.rig, STEPS);
        assert_eq!(second.as_array().unwrap().len(), ALL_STEPS);
        assert_ne!(second, first, "the steps are this process's");
        let info = aya::maps::MapInfo::from_pin(agent.rig.map_pin(SNAT)).unwrap();
        assert_eq!(info.id(), map);
    });
}

#[rstest]
fn a_step_deleted_by_hand_is_set_again(#[values(0, 1, 2, 3, 4, 5, 6)] step: u8) {
    rig().agent(async |agent| {
        agent.converge().await;
        let pin = agent.rig.map_pin(STEPS);
        sh(&format!(
            "bpftool map delete pinned {} key {step} 0 0 0",
            pin.display()
        ));
        assert_eq!(entries(agent.rig, STEPS), ALL_STEPS - 1);
        assert_eq!(agent.converge().await, ["set the steps of source NAT"]);
        assert_eq!(entries(agent.rig, STEPS), ALL_STEPS);
    });
}

#[test]
fn exempt_destinations_are_those_that_were_asked_for() {
    let mut rig = rig();
    rig.agent(async |agent| {
        agent.converge().await;
        let pin = agent.rig.map_pin(EXEMPT).display().to_string();
        sh(&format!(
            "bpftool map delete pinned {pin} key 12 0 0 0 172 16 0 0"
        ));
        sh(&format!(
            "bpftool map update pinned {pin} key 8 0 0 0 9 0 0 0 value 1"
        ));
        let did = agent.converge().await;
        assert_eq!(
            did,
            ["update the destinations exempt from source NAT: 172.16.0.0/12 not 9.0.0.0/8"]
        );
    });
    rig.snat = Some(source_nat(&["192.168.0.0/24"]));
    let did = rig.agent(async |agent| agent.converge().await);
    let update = "update the destinations exempt from source NAT: not 172.16.0.0/12";
    assert!(did.contains(&update.to_owned()), "{did:?}");
    rig.snat = None;
    rig.agent(async |agent| {
        agent.converge().await;
        assert_eq!(entries(agent.rig, EXEMPT), 0);
    });
}

#[test]
fn hooks_detached_by_hand_are_back_in_their_order() {
    rig().agent(async |agent| {
        agent.converge().await;
        for program in ["overlay_snat_tx", "overlay_tx", "uplink_tx"] {
            let pin = agent.rig.link_pin(program);
            sh(&format!("bpftool link detach pinned {}", pin.display()));
            assert_eq!(agent.converge().await.len(), 1);
            let egress = order("flannel.1", TcAttachType::Egress);
            assert_eq!(egress, ["overlay_snat_tx", "overlay_tx"]);
            assert_eq!(order("eth0", TcAttachType::Egress), ["uplink_tx"]);
        }
    });
}

#[test]
fn every_device_that_leads_out_has_hooks_and_its_address() {
    rig().agent(async |agent| {
        agent.converge().await;
        sh("ip link add eth1 type veth peer name far1");
        sh("ip addr add 192.168.7.9/24 dev eth1");
        sh("ip link set eth1 up");
        let index = agent
            .dataplane
            .netlink()
            .link("eth1")
            .await
            .unwrap()
            .unwrap()
            .index;
        assert_eq!(
            agent.converge().await,
            [
                &format!(
                    "update the addresses that pods leave with: 192.168.7.9 by interface #{index}"
                ),
                "attach uplink_snat_rx to ingress of eth1",
                "attach uplink_tx to egress of eth1",
            ]
        );
        sh("ip addr add 192.168.8.9/24 dev eth1");
        sh("ip addr del 192.168.7.9/24 dev eth1");
        assert_eq!(
            agent.converge().await,
            [format!(
                "update the addresses that pods leave with: 192.168.8.9 by interface #{index}"
            )]
        );
        sh("ip addr del 192.168.8.9/24 dev eth1");
        let did = agent.converge().await;
        assert_eq!(did.len(), 3, "{did:?}");
        // The kernel ends a link whose last pin goes in a workqueue (`bpf_link_put`).
        eventually("the device's hook is empty", SOON, || {
            order("eth1", TcAttachType::Egress).is_empty()
        });
        // The uplink keeps its own: each address is lent by it and by any.
        assert_eq!(entries(agent.rig, OUTLETS), 1);
        assert_eq!(entries(agent.rig, LENT), 2);
        assert_eq!(order("eth0", TcAttachType::Egress), ["uplink_tx"]);
    });
}
