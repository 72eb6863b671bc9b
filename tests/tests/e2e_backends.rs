//! What holds of every backend: changes from each to each leave nothing of the one before, sums of MTUs, and nothing untranslated.

#![cfg(test)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex};

use flannel_tests::fast_path::hooked_if_ours;
use flannel_tests::network::Backend;
use flannel_tests::pair::{Kind, Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::stage::{Stage, seen};
use flannel_tests::with_daemon::start;
use flannel_tests::{talk, tcp, traces};
use rstest::rstest;

const PREFIX: &str = "/coreos.com/network";
const CIDR: &str = "10.244.0.0/16";

/// Those that need no device of the kernel's that this machine lacks.
const HERE: [&str; 8] = [
    "vxlan",
    "vxlan direct",
    "host-gw",
    "udp",
    "ipip",
    "ipip direct",
    "alloc",
    "extension",
];

fn network(backend: &str) -> Network {
    match backend {
        "vxlan" => Network::vxlan(PREFIX, CIDR),
        "vxlan direct" => Network::vxlan(PREFIX, CIDR).direct_routing(),
        "host-gw" => Network::host_gw(PREFIX, CIDR),
        "udp" => Network::udp(PREFIX, CIDR),
        "ipip" => Network::ipip(PREFIX, CIDR),
        "ipip direct" => Network::ipip(PREFIX, CIDR).direct_routing(),
        "alloc" => Network::alloc(PREFIX, CIDR),
        "extension" => Network::extension(PREFIX, CIDR),
        "wireguard" => Network::wireguard(PREFIX, CIDR),
        other => panic!("{other}"),
    }
}

fn forwards(net: &Network) -> bool {
    net.backend != Backend::Alloc
}

/// Two nodes with this backend, and what a node has of it that never had another.
fn fresh(backend: &str) -> (Pair<AnyDaemon>, String) {
    // A pair's pods reach each other first, which those of alloc do not.
    let net = network(backend);
    let lab = Lab::new();
    let first = lab.network(net.clone());
    let pair = match forwards(&net) {
        true => Pair::of_daemons_in(lab, first, Mix::Ours, &[]),
        false => {
            let [one, two] =
                ["one", "two"].map(|name| start(Kind::Ours, lab.node(name), &first, &[]));
            let (pod1, pod2) = (Pod::on(&one, "pod1"), Pod::on(&two, "pod2"));
            Pair {
                lab,
                net: first,
                one,
                two,
                pod1,
                pod2,
            }
        }
    };
    // The pods' ports come last.
    if is_fast(backend) {
        hooked_if_ours(&pair.one);
        hooked_if_ours(&pair.two);
    }
    let traces = traces(&pair)[0].clone();
    (pair, traces)
}

/// Whether programs of ours sit at pods' ports.
fn is_fast(backend: &str) -> bool {
    !["alloc", "extension", "wireguard"].contains(&backend)
}

/// Of both nodes, once they stand still.
fn traces(pair: &Pair<AnyDaemon>) -> [String; 2] {
    let [one, two] = [&pair.one, &pair.two].map(|daemon| daemon.agent().expect("ours"));
    let look = || [traces::of(one, two), traces::of(two, one)];
    let mut last = look();
    eventually("the nodes stand still", SOON, || {
        let now = look();
        now == std::mem::replace(&mut last, now.clone())
    });
    last
}

/// Each backend's, looked at once.
static FRESH: Mutex<BTreeMap<&str, Arc<str>>> = Mutex::new(BTreeMap::new());

fn traces_of_fresh(backend: &'static str) -> Arc<str> {
    if let Some(known) = FRESH.lock().unwrap().get(backend) {
        return known.clone();
    }
    let (_pair, traces) = fresh(backend);
    let traces: Arc<str> = traces.into();
    FRESH.lock().unwrap().insert(backend, traces.clone());
    traces
}

fn change(pair: &mut Pair<AnyDaemon>, backend: &'static str) {
    let before = pair.net.backend;
    let net = pair.lab.network(network(backend));
    for daemon in [&mut pair.one, &mut pair.two] {
        assert!(daemon.terminate().success());
    }
    if before == Backend::Extension && matches!(net.backend, Backend::Alloc | Backend::WireGuard) {
        // What the operator's commands have made is the operator's, until somebody needs its place: flanneld as well runs none when
        // it ends.
        for (node, peer) in [(&pair.one, &pair.two), (&pair.two, &pair.one)] {
            node.exec(&format!("ip route del {}", peer.subnet()));
        }
    }
    for daemon in [&mut pair.one, &mut pair.two] {
        daemon.restart();
    }
    pair.net = net;
}

/// Of the two nodes, and of what of them a fresh one does not have, or has besides.
#[track_caller]
fn is_as_fresh(pair: &Pair<AnyDaemon>, backend: &'static str, before: &str) {
    if forwards(&pair.net) {
        pair.pod1.reaches(&pair.pod2);
        pair.pod2.reaches(&pair.pod1);
        let server = tcp::Server::on(&pair.pod2);
        let to = SocketAddrV4::new(pair.pod2.address(), server.port());
        let mut talk = talk::Tcp::open(&server, &pair.pod1, to);
        talk.rounds(20);
        talk.close();
    } else {
        let lost = pair.pod1.ping(pair.pod2.address()).count(1).send();
        assert_eq!(lost.received, 0, "{before} to {backend}: {}", lost.text);
    }
    let fresh = traces_of_fresh(backend);
    // The kernel's own doing (`wg_open`), which stays with flanneld as well.
    let is_wireguards = |line: &&str| {
        [backend, before].contains(&"wireguard") && line.starts_with("conf/all/send_redirects ")
    };
    let lines = |text: &str| -> Vec<String> {
        let kept = text.lines().filter(|line| !is_wireguards(line));
        kept.map(str::to_owned).collect()
    };
    let only = |of: &[String], not: &[String]| -> Vec<String> {
        of.iter().filter(|it| !not.contains(it)).cloned().collect()
    };
    let expected = lines(&fresh);
    let found = RefCell::new(String::new());
    let differs = fmt::from_fn(|f| f.write_str(&found.borrow()));
    // A node that stands still may be about to hook its pods.
    eventually(&differs, SOON, || {
        traces(pair).iter().all(|traces| {
            let now = lines(traces);
            let (left, lacks) = (only(&now, &expected), only(&expected, &now));
            found.replace(format!(
                "{before} to {backend}: left {left:#?}, lacks {lacks:#?}"
            ));
            left.is_empty() && lacks.is_empty()
        })
    });
}

/// By restarts with another configuration, both ways: from the one to each that comes after it in the table, and back.
#[rstest]
fn each_to_each_and_back(#[values(0, 1, 2, 3, 4, 5, 6)] first: usize) {
    there_and_back(HERE[first], &HERE[first + 1..]);
}

#[test]
#[ignore = "needs WireGuard: cargo xtask test --kernel 6.12"]
fn wireguard_to_each_and_back() {
    there_and_back("wireguard", &HERE);
}

fn there_and_back(here: &'static str, others: &[&'static str]) {
    let (mut pair, _) = fresh(here);
    let subnet = pair.one.subnet();
    for other in others {
        for (backend, before) in [(*other, here), (here, *other)] {
            change(&mut pair, backend);
            is_as_fresh(&pair, backend, before);
            assert_eq!(pair.one.subnet(), subnet, "{before} to {backend}");
        }
    }
}

/// What pods may send, and what the device takes.
fn mtu_holds(kind: Kind, backend: &str, underlay: u32, configured: Option<u32>, expected: u32) {
    let lab = Lab::new();
    let net = Network {
        mtu: configured,
        ..network(backend)
    };
    let net = lab.network(net);
    let node = lab.node("one");
    node.exec(&format!("ip link set eth0 mtu {underlay}"));
    let one = start(kind, node, &net, &[]);
    assert_eq!(one.subnet_env().mtu, expected, "{backend}");
    let links = one.exec("ip -o link");
    let has_device = ["vxlan", "udp", "ipip", "wireguard"]
        .iter()
        .any(|it| backend.starts_with(it));
    let device = net.device();
    let line = links.lines().find(|line| {
        line.split([':', '@'])
            .nth(1)
            .is_some_and(|it| it.trim() == device)
    });
    assert_eq!(line.is_some(), has_device, "{links}");
    if let Some(line) = line {
        assert!(line.contains(&format!(" mtu {expected} ")), "{line}");
    }
}

#[rstest]
#[case::vxlan("vxlan", 1500, None, 1450)]
#[case::vxlan_short_wire("vxlan", 1400, None, 1350)]
#[case::vxlan_jumbo("vxlan", 9000, None, 8950)]
#[case::vxlan_configured("vxlan", 1500, Some(1400), 1350)]
#[case::direct_routing("vxlan direct", 1500, None, 1450)]
#[case::host_gw("host-gw", 1500, None, 1500)]
#[case::host_gw_short_wire("host-gw", 1400, None, 1400)]
#[case::udp("udp", 1500, None, 1472)]
#[case::udp_short_wire("udp", 1400, None, 1372)]
#[case::alloc("alloc", 1400, None, 1400)]
#[case::extension("extension", 1400, None, 1400)]
fn mtus_of_each_backend(
    #[case] backend: &str,
    #[case] underlay: u32,
    #[case] configured: Option<u32>,
    #[case] expected: u32,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    mtu_holds(kind, backend, underlay, configured, expected);
}

#[rstest]
#[case("ipip", 1500, 1480)]
#[case("ipip", 1400, 1380)]
#[case("ipip direct", 1500, 1480)]
fn mtus_of_ipip(#[case] backend: &str, #[case] underlay: u32, #[case] expected: u32) {
    mtu_holds(Kind::Ours, backend, underlay, None, expected);
}

#[rstest]
#[case::ipip("ipip", 1500, None, 1480)]
#[case::ipip_short_wire("ipip", 1400, None, 1380)]
#[case::wireguard("wireguard", 1500, None, 1420)]
#[case::wireguard_short_wire("wireguard", 1400, None, 1320)]
#[case::wireguard_configured("wireguard", 1500, Some(1400), 1320)]
#[ignore = "needs ipip and WireGuard: cargo xtask test --kernel 6.12"]
fn mtus_of_kernel_devices(
    #[case] backend: &str,
    #[case] underlay: u32,
    #[case] configured: Option<u32>,
    #[case] expected: u32,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    mtu_holds(kind, backend, underlay, configured, expected);
}

/// The stage watches the wire for what leaves under a pod's address.
fn leaves_as_the_node(kind: Kind, backend: &str) {
    let stage = Stage::on_net(kind, network(backend));
    let outside = &stage.outside;
    let as_node = |pod: &Pod, node| {
        assert_eq!(seen(pod, outside, outside.address()), node, "{backend}");
        pod.ping(outside.address()).succeeds();
    };
    as_node(&stage.pod, stage.address());
    if !forwards(&stage.net) {
        return;
    }
    let other = stage.neighbour();
    for (from, to) in [(&stage.pod, &other.pod), (&other.pod, &stage.pod)] {
        assert_eq!(seen(from, to, to.address()), from.address(), "{backend}");
    }
    as_node(&other.pod, other.node.node().address());
}

#[rstest]
fn nothing_leaves_untranslated(
    #[values("vxlan", "vxlan direct", "host-gw", "udp", "alloc", "extension")] backend: &str,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    leaves_as_the_node(kind, backend);
}

#[rstest]
fn nothing_leaves_ipip_untranslated(#[values("ipip", "ipip direct")] backend: &str) {
    leaves_as_the_node(Kind::Ours, backend);
}

#[rstest]
#[ignore = "needs ipip and WireGuard: cargo xtask test --kernel 6.12"]
fn nothing_leaves_kernel_devices_untranslated(
    #[values("ipip", "wireguard")] backend: &str,
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
) {
    leaves_as_the_node(kind, backend);
}
