//! An agent that ends leaves everything in place, and the next one takes it over.

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::MapInfo;
use aya::programs::links::{FdLink, PinnedLink};
use flannel_common::maps::{PEERS, STATS, VTEPS};

use crate::rig::{Rig, sh};

const PROGRAMS: [&str; 3] = ["overlay_tx", "overlay_catch", "uplink_rx"];

/// Id of the link and of the program it runs.
fn link(path: &Path) -> (u32, u32) {
    let link = FdLink::from(PinnedLink::from_pin(path).unwrap());
    let info = link.info().unwrap();
    (info.id(), info.program_id())
}

pub(crate) fn links(rig: &Rig) -> BTreeMap<&'static str, (u32, u32)> {
    PROGRAMS.map(|p| (p, link(&rig.link_pin(p)))).into()
}

fn maps(rig: &Rig) -> [u32; 3] {
    [PEERS, VTEPS, STATS].map(|name| MapInfo::from_pin(rig.map_pin(name)).unwrap().id())
}

#[test]
fn a_new_agent_swaps_programs_under_live_links_and_keeps_maps() {
    let rig = Rig::new();
    rig.agent(async |agent| agent.converge().await);
    let (links_before, maps_before) = (links(&rig), maps(&rig));
    let did = rig.agent(async |agent| agent.converge().await);
    assert_eq!(
        did,
        [
            "load the programs for VNI 1 port 8472 at 192.168.0.1",
            "attach overlay_catch to ingress of flgro.1",
            "attach overlay_tx to egress of flannel.1",
            "attach uplink_rx to ingress of eth0",
        ]
    );
    let links_after = links(&rig);
    for program in PROGRAMS {
        let (before, after) = (links_before[program], links_after[program]);
        assert_eq!(before.0, after.0, "{program}: the link stayed");
        assert_ne!(before.1, after.1, "{program}: its program is new");
    }
    assert_eq!(maps(&rig), maps_before);
}

#[test]
fn without_an_agent_everything_stays() {
    let rig = Rig::new();
    rig.agent(async |agent| agent.converge().await);
    links(&rig);
    maps(&rig);
    for (device, hook) in [("flannel.1", "tcx/egress"), ("flgro.1", "tcx/ingress")] {
        let shown = rig.netns.run(&format!("bpftool net show dev {device}"));
        // Old versions of bpftool do not know tcx: then the pins have to do as proof.
        assert!(!shown.contains("tcx/") || shown.contains(hook), "{shown}");
    }
    rig.netns.run("ip route get 10.244.2.5");
}

#[test]
fn peers_that_went_while_no_agent_ran_are_removed_before_the_new_programs_run() {
    let mut rig = Rig::new();
    rig.agent(async |agent| agent.converge().await);
    rig.leases.clear();
    let did = rig.agent(async |agent| agent.converge().await);
    assert_eq!(
        did[1..3],
        [
            "remove the route 10.244.2.0/24",
            "update peers: 10.244.2.0/24 gone"
        ],
        "{did:?}"
    );
    assert!(did[3].starts_with("attach"));
}

#[test]
fn a_changed_address_loads_new_constants_under_the_same_links() {
    let rig = Rig::new();
    rig.agent(async |agent| {
        agent.converge().await;
        let before = links(agent.rig);
        sh("ip addr del 192.168.0.1/24 dev eth0");
        sh("ip addr add 192.168.0.9/24 dev eth0");
        let did = agent.converge().await;
        assert_eq!(
            did[0],
            "load the programs for VNI 1 port 8472 at 192.168.0.9"
        );
        for (program, (link, _)) in links(agent.rig) {
            assert_eq!(link, before[program].0, "{program}");
        }
    });
}

#[test]
fn a_pinned_map_of_another_shape_is_made_anew() {
    let rig = Rig::new();
    rig.agent(async |agent| agent.converge().await);
    let pin = rig.map_pin(PEERS);
    std::fs::remove_file(&pin).unwrap();
    rig.netns.run(&format!(
        "bpftool map create {} type hash key 4 value 8 entries 16 name fl_peers",
        pin.display()
    ));
    let did = rig.agent(async |agent| agent.converge().await);
    assert!(did.iter().any(|a| a.starts_with("update peers")), "{did:?}");
    assert_eq!(MapInfo::from_pin(&pin).unwrap().value_size(), 16);
}

#[test]
fn maps_of_another_layout_are_removed_at_the_end() {
    let rig = Rig::new();
    rig.agent(async |agent| agent.converge().await);
    let old = rig.pins().join("v0/maps");
    std::fs::create_dir_all(&old).unwrap();
    rig.netns.run(&format!(
        "bpftool map create {}/fl_peers type hash key 4 value 8 entries 16 name fl_peers",
        old.display()
    ));
    let did = rig.agent(async |agent| agent.converge().await);
    assert_eq!(did.last().unwrap(), "remove the maps of layout v0");
    assert!(!rig.pins().join("v0").exists());
}

#[test]
fn an_agent_that_died_before_it_marked_the_pair_is_continued() {
    let rig = Rig::new();
    rig.netns
        .run("ip link add flannel.1 address 02:00:00:00:00:01 type veth peer name flgro.1");
    let did = rig.agent(async |agent| agent.converge().await);
    assert!(did[0].starts_with("set the alias"), "{did:?}");
}
