//! Pins that are away, and cannot be made again: whoever of the agent reads or writes the maps goes on with those that are open.

#![cfg(test)]

use flannel_tests::metrics::sample;
use flannel_tests::mirror::{Client, Mirror};
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use flannel_tests::snat_table::SnatTable;
use flannel_tests::stage::Stage;

/// No more than what the agent cannot do without: not the right to mount.
const WITHOUT_SYS_ADMIN: &str =
    "setpriv --bounding-set -all,+net_admin,+net_raw,+bpf,+perfmon --inh-caps -all";

fn unmount_bpffs(node: &Node) {
    let detach = nix::mount::MntFlags::MNT_DETACH;
    nix::mount::umount2(&node.bpffs(), detach).expect("unmount the bpffs");
    assert!(!node.bpffs().join("flannel").exists());
}

fn metric(agent: &Agent, name: &str) -> Option<f64> {
    sample(agent, name)
}

#[test]
fn translated_flows_that_are_over_are_swept_and_counted() {
    let stage = Stage::under(WITHOUT_SYS_ADMIN);
    let mut table = SnatTable::of(&stage.node);
    let mirror = Mirror::on(&stage.outside, 7000);
    unmount_bpffs(stage.node.node());

    let mut client = Client::udp(&stage.pod, 0, stage.outside.at(mirror.port()));
    client.ask(1);
    let port = client.port();
    let is_its = |key: &flannel_common::snat::Key, own: u16| own == port && key.proto == 17;
    let is_there = |table: &SnatTable| {
        let flows = table.flows();
        flows
            .iter()
            .any(|(key, _)| is_its(key, u16::from_be_bytes(key.src_port)))
    };
    assert!(is_there(&table));
    let entries = metric(&stage.node, "flannel_ebpf_map_entries{map=\"fl_snat\"}");
    assert!(entries.is_some_and(|entries| entries >= 2.0), "{entries:?}");
    let swept = "flannel_ebpf_snat_swept_flows_total";
    let before = metric(&stage.node, swept).expect("a counter");
    table.age(200, is_its);
    eventually("the flow is swept", SOON, || !is_there(&table));
    eventually("that is counted", SOON, || {
        metric(&stage.node, swept).is_some_and(|swept| swept > before)
    });
    assert!(!stage.node.node().bpffs().join("flannel").exists());
}

/// As in `outer_fragments_are_delivered`: who sent such a packet is looked up in the maps.
#[test]
fn outer_fragments_are_delivered_while_nothing_is_pinned() {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let one = Agent::start_under(WITHOUT_SYS_ADMIN, lab.node("one"), &net, &[]);
    let two = Agent::start(lab.node_behind_router("two"), &net);
    let pair = Pair::of(lab, net, one, two);
    pair.lab
        .router()
        .exec("ip route replace 172.30.0.0/24 dev switch mtu 1000");
    unmount_bpffs(pair.one.node());
    let fragments = Capture::start(
        pair.one.node(),
        Node::UPLINK,
        "ip[6:2] & 0x3fff != 0 and src host 172.30.12.12",
    );
    pair.pod2.ping(pair.pod1.address()).whole(1450).succeeds();
    fragments.packets(1);
    assert!(!pair.one.node().bpffs().join("flannel").exists());
}
