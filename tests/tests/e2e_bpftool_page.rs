//! docs/bpftool.md shows what bpftool shows: the same maps, with the same fields.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};

use flannel_tests::netns::run;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;

/// Names of fields in the text of a dump.
fn fields(dump: &str) -> BTreeSet<String> {
    let words = dump.split('"').skip(1).step_by(2);
    words.map(str::to_owned).collect()
}

/// The page's dumps by map.
fn shown(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut dumps = BTreeMap::new();
    for block in page.split("# bpftool map dump pinned $M/").skip(1) {
        let (map, rest) = block.split_once('\n').unwrap();
        let end = rest.find("\n#").into_iter().chain(rest.find("\n```")).min();
        dumps.insert(map.to_owned(), fields(&rest[..end.unwrap_or(rest.len())]));
    }
    dumps
}

#[test]
fn the_page_shows_every_map_and_the_fields_that_it_has() {
    let page = include_str!("../../docs/bpftool.md");
    let shown = shown(page);
    assert!(shown.len() >= 5, "{shown:?}");

    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16"));
    let outside = lab.outside();
    let flags = ["--ip-masq", "--snat-exempt=192.0.2.0/24"];
    let one = Agent::start_with(lab.node("one"), &net, &flags);
    let two = KernelVxlan::join(lab.node("two"), &net);
    let pair = Pair::of(lab, net, one, two);
    let node = pair.one.node();
    // A device besides the uplink, by which packets leave.
    node.ip_batch(&[
        "link add side type veth peer name far-side".to_owned(),
        "addr add 203.0.113.1/24 dev side".to_owned(),
        "link set far-side up".to_owned(),
        "link set side up".to_owned(),
    ]);
    let maps = node.bpffs().join(format!(
        "flannel/coreos_com_network/v{}/maps",
        flannel_common::maps::LAYOUT_VERSION
    ));
    let dump = |map: &str| {
        let pin = maps.join(map);
        node.exec(&format!("bpftool map dump pinned {}", pin.display()))
    };
    eventually(
        "the pod reaches the world, and the device has its address",
        SOON,
        || {
            let left = pair.pod1.ping(outside.address()).count(1).lossless();
            left && dump("fl_lent").contains("203")
        },
    );
    for (map, fields_shown) in &shown {
        let text = dump(map);
        println!("# bpftool map dump pinned $M/{map}\n{text}");
        assert_eq!(*fields_shown, fields(&text), "{map}: {text}");
    }
    // Every map has its row.
    for entry in std::fs::read_dir(&maps).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            page.contains(&format!("`{name}`")),
            "{name} is not on the page"
        );
    }
    let version = format!("/v{}/maps", flannel_common::maps::LAYOUT_VERSION);
    assert!(page.contains(&version), "the page is about another layout");
    let show = format!(
        "bpftool map show pinned {}",
        maps.join("fl_peers").display()
    );
    println!(
        "{}\n{}",
        run(&mut node.command(&show)),
        node.exec("bpftool prog show name overlay_tx")
    );
}
