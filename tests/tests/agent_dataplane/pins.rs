//! Pins that somebody removes under a live agent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use aya::maps::MapInfo;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, ProgramInfo, SchedClassifier, TcAttachType};
use flannel_common::maps::{PEERS, SNAT};
use flannel_tests::stranger;
use rstest::rstest;

use crate::adoption::links;
use crate::rig::{Rig, sh};

/// Ids of what is pinned there.
fn pinned_maps(rig: &Rig) -> BTreeMap<PathBuf, u32> {
    let folder = rig.map_pin(PEERS);
    let pins = std::fs::read_dir(folder.parent().unwrap()).unwrap();
    let pins = pins.map(|pin| pin.unwrap().path());
    pins.map(|pin| (pin.clone(), MapInfo::from_pin(pin).unwrap().id()))
        .collect()
}

/// Programs on the uplink's hook.
fn on_uplink() -> Vec<u32> {
    let (_, programs) = SchedClassifier::query_tcx("eth0", TcAttachType::Ingress).unwrap();
    programs.iter().map(ProgramInfo::id).collect()
}

#[rstest]
#[case::all(|rig: &Rig| std::fs::remove_dir_all(rig.pins()).unwrap())]
#[case::of_one_map(|rig: &Rig| std::fs::remove_file(rig.map_pin(SNAT)).unwrap())]
#[case::of_one_link(|rig: &Rig| std::fs::remove_file(rig.link_pin("uplink_rx")).unwrap())]
fn pins_that_were_removed_come_back_and_what_they_held_runs_on(#[case] remove: fn(&Rig)) {
    Rig::new().agent(async |agent| {
        agent.converge().await;
        let (maps, programs) = (pinned_maps(agent.rig), links(agent.rig));
        let on_hook = on_uplink();
        assert_eq!(on_hook.len(), 1);
        remove(agent.rig);
        // Long after the kernel would have ended a link that nobody holds.
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(on_uplink(), on_hook);
        assert_eq!(agent.reconcile().await, <[&str; 0]>::default());
        assert_eq!(pinned_maps(agent.rig), maps);
        assert_eq!(links(agent.rig), programs);
        assert_eq!(on_uplink(), on_hook);
    });
}

/// What is ahead of ours has it go before, by another link, which is pinned in the place of the one before.
#[test]
fn a_hook_is_not_empty_while_the_link_that_comes_cannot_be_pinned() {
    Rig::new().agent(async |agent| {
        agent.converge().await;
        let ours = on_uplink();
        assert_eq!(ours.len(), 1);
        let bpffs = agent.rig.bpffs();
        let pin = bpffs.join("monitor");
        stranger::pin_answering(stranger::Kind::Tc, "monitor", 0, &pin);
        let mut monitor = SchedClassifier::from_pin(&pin).unwrap();
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let link = monitor.attach_with_options("eth0", TcAttachType::Ingress, first);
        let _link = monitor.take_link(link.unwrap()).unwrap();
        let remount = |how: &str| sh(&format!("mount -o remount,{how} {}", bpffs.display()));
        remount("ro");
        let desired = agent.desired().await;
        let refused = agent.dataplane.reconcile(&desired).await;
        let on_hook = on_uplink();
        remount("rw");
        assert!(refused.is_err() || refused.is_ok_and(|it| !it.failed.is_empty()));
        assert!(on_hook.contains(&ours[0]), "{on_hook:?}");
        agent.converge().await;
        let stranger = monitor.info().unwrap().id();
        let on_hook = on_uplink();
        assert_eq!(
            (on_hook.len(), on_hook[1]),
            (2, stranger),
            "ours goes first"
        );
    });
}
