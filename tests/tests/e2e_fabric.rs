//! Nodes whose address is on the loopback device, with two links to the fabric: the kernel routes the outer packets.

#![cfg(test)]

use flannel_common::program::Program::UplinkRx;
use flannel_common::reason::Reason;
use flannel_tests::agent::{Daemon, command};
use flannel_tests::bpftool::count;
use flannel_tests::fabric::{DEVICES, Leaf, Links, agents, pair};
use flannel_tests::fast_path::{fast_both_ways, hooked, received, talk_udp};
use flannel_tests::netns::output;
use flannel_tests::pair::{Kind, Mix, Pair};
use flannel_tests::prelude::*;
use flannel_tests::udp;
use flannel_tests::ways::{carries_everything, host_gw, vxlan};
use rstest::rstest;

const ALL_LINKS: [Links; 3] = [Links::Numbered, Links::Unnumbered, Links::OverIpv6];

#[rstest]
fn pods_reach_each_other(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
    #[values(ALL_LINKS[0], ALL_LINKS[1], ALL_LINKS[2])] links: Links,
) {
    carries_everything(&pair(told(mix), mix.kinds(), links, &[]));
}

/// flanneld goes by the MTU of the device that has the address, and that of the loopback device is 65,536.
fn told(mix: Mix) -> Network {
    match mix {
        Mix::Ours => vxlan(),
        _ => vxlan().mtu(1500),
    }
}

#[rstest]
fn with_other_settings(
    #[values(
        "--fast-path=always",
        "--fast-path=off",
        "--pod-hook=bridge",
        "--xdp=on"
    )]
    flag: &str,
) {
    carries_everything(&pair(
        vxlan(),
        Mix::Ours.kinds(),
        Links::Unnumbered,
        &[flag],
    ));
}

#[rstest]
fn with_direct_routing(#[values(Mix::Ours, Mix::Flanneld)] mix: Mix) {
    let net = told(mix).direct_routing();
    carries_everything(&pair(net, mix.kinds(), Links::Numbered, &[]));
}

/// However the address is named.
#[rstest]
#[case::by_address(&["--iface=10.255.0.1"])]
#[case::by_regex(&["--iface=", "--iface-regex=^10\\.255\\."])]
#[case::as_public_ip(&["--iface=", "--public-ip=10.255.0.1"])]
#[case::by_default_route(&["--iface="])]
#[case::by_reach(&["--iface=", "--iface-can-reach=172.30.0.1"])]
fn the_address_is_found(#[case] flags: &[&str]) {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let leaf = |n| Leaf::new(&lab, n, Links::Unnumbered, [1500; 2]);
    let (one, two) = (leaf(0), leaf(1));
    let (one, two) = (one.agent(&net, flags), two.agent(&net, &[]));
    let lease = lab.etcd().get(&net.lease_key(one.subnet())).unwrap();
    assert!(lease.contains("\"PublicIP\":\"10.255.0.1\""), "{lease}");
    carries_everything(&Pair::of(lab, net, one, two));
}

#[rstest]
fn past_the_stack(#[values(ALL_LINKS[0], ALL_LINKS[1], ALL_LINKS[2])] links: Links) {
    let pair = agents(vxlan(), links, &[]);
    hooked(&pair.one);
    hooked(&pair.two);
    fast_both_ways(&pair, received).close();
}

/// Many flows take both links, there and back, and programs take them in at both: nothing needs the agent.
#[rstest]
#[case::verified("--fast-path=verified")]
#[case::always("--fast-path=always")]
fn both_links_carry(#[case] flag: &str) {
    let mut pair = agents(vxlan(), Links::Unnumbered, &[flag]);
    hooked(&pair.one);
    hooked(&pair.two);
    pair.one.kill();
    pair.two.kill();
    let filter = "udp port 8472";
    let captures = DEVICES.map(|device| Capture::start(pair.one.node(), device, filter));
    for _ in 0..40 {
        udp::exchange(&pair.pod1, &pair.pod2, pair.pod2.address(), 100);
    }
    for capture in captures {
        let packets = capture.packets(10);
        let from_us = |packet: &&Vec<u8>| packet[26..30] == [10, 255, 0, 1];
        let sent = packets.iter().filter(from_us).count();
        assert!(
            sent > 0 && sent < packets.len(),
            "{sent} of {}",
            packets.len()
        );
    }
    let taken = [Reason::DecapDirect, Reason::DecapGro, Reason::FastRx]
        .map(|r| count(&pair.two, UplinkRx, r));
    assert!(taken.iter().sum::<u64>() >= 40, "{taken:?}");
}

/// A link that loses its carrier, and comes back.
#[rstest]
fn a_link_that_dies_is_left(#[values(Mix::Ours, Mix::Flanneld)] mix: Mix) {
    let pair = pair(vxlan(), mix.kinds(), Links::Unnumbered, &[]);
    let router = pair.lab.router();
    let talks: Vec<_> = (0..8).map(|_| talk_udp(&pair.pod1, &pair.pod2)).collect();
    for device in DEVICES {
        for talk in &talks {
            talk.rounds(10);
        }
        // The other end goes down: no carrier here.
        router.exec(&format!("ip link set leaf0{device} down"));
        for talk in &talks {
            eventually("the flow goes by the other link", SOON, || talk.round());
            talk.rounds(10);
        }
        router.exec(&format!("ip link set leaf0{device} up"));
        let back = "ip route replace 10.255.0.1/32 nexthop dev leaf0eth0 nexthop dev leaf0eth1";
        router.exec(back);
    }
}

/// What fits through each of the links.
#[test]
fn the_smallest_mtu_counts() {
    let lab = Lab::new();
    let net = lab.network(vxlan());
    let leaf = |n| Leaf::new(&lab, n, Links::Unnumbered, [1500, 1400]);
    let (one, two) = (leaf(0), leaf(1));
    let (one, two) = (one.agent(&net, &[]), two.agent(&net, &[]));
    assert_eq!(one.subnet_env().mtu, 1350);
    let pair = Pair::of(lab, net, one, two);
    carries_everything(&pair);
    for _ in 0..10 {
        pair.pod1.ping(pair.pod2.address()).whole(1350).succeeds();
    }
}

/// By whatever link it leaves, under the address of the node; or that of the link, where it has one.
#[rstest]
#[case::unnumbered(Links::Unnumbered, &["10.255.0.1"])]
#[case::numbered(Links::Numbered, &["10.254.0.2", "10.254.0.6"])]
fn pods_reach_the_outside(
    #[values(Kind::Ours, Kind::Flanneld)] kind: Kind,
    #[case] links: Links,
    #[case] expected: &[&str],
) {
    let lab = Lab::new();
    let net = lab.network(vxlan().mtu(1500));
    let outside = lab.outside();
    let leaf = Leaf::new(&lab, 0, links, [1500; 2]);
    let one = leaf.join(kind, &net, &["--ip-masq"]);
    let pod = Pod::on(&one, "pod");
    let leaks = DEVICES.map(|device| {
        let filter = format!("src net {} and not udp port 8472", net.cidr);
        Capture::inside(one.node(), lab.router(), &format!("leaf0{device}"), &filter)
    });
    pod.ping(outside.address()).succeeds();
    for _ in 0..20 {
        let seen = udp::exchange(&pod, &outside, outside.address(), 100).ip();
        assert!(expected.contains(&seen.to_string().as_str()), "{seen}");
    }
    for capture in leaks {
        assert_eq!(capture.finish().len(), 0, "left under a pod's address");
    }
}

#[test]
fn host_gw_says_that_it_needs_a_link() {
    let lab = Lab::new();
    let net = lab.network(host_gw());
    let leaf = Leaf::new(&lab, 0, Links::Unnumbered, [1500; 2]);
    let mut daemon = Daemon::spawn(&leaf.node, &net, &["--iface=lo"]);
    assert!(!daemon.process().wait(SOON).success());
    let log = daemon.log();
    assert!(log.contains("host-gw needs an uplink on the link"), "{log}");
}

/// What operators look at knows the links.
#[test]
fn doctor_and_trace_show_the_links() {
    let pair = agents(vxlan(), Links::Unnumbered, &[]);
    let node = pair.one.node();
    let bpffs = format!("--bpffs={}", node.bpffs().display());
    let etcd = format!("--etcd-endpoints={}", node.etcd());
    let run = |words: &[&str]| {
        let output = output(&mut command(node, words));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = run(&["doctor", &bpffs, &etcd, "--iface=lo"]);
    assert!(
        text.contains("packets to peers also by eth0, eth1"),
        "{text}"
    );
    assert!(text.contains("routes lead to 1 peers"), "{text}");
    let (one, two) = (
        pair.pod1.address().to_string(),
        pair.pod2.address().to_string(),
    );
    let text = run(&["trace", &one, &two, &bpffs]);
    assert!(
        text.contains("10.255.0.1") && text.contains("sent"),
        "{text}"
    );
    let text = run(&["trace", &two, &one, &bpffs]);
    assert!(
        text.contains("uplink_rx") && text.contains("delivered"),
        "{text}"
    );
}

/// No device led anywhere when the agent started.
#[test]
fn links_may_come_later() {
    let lab = Lab::new();
    let net = lab.network(vxlan().mtu(1500));
    let leaf = |n| Leaf::new(&lab, n, Links::Unnumbered, [1500; 2]);
    let (one, two) = (leaf(0), leaf(1));
    let routes = one.node.exec("ip route show default");
    let way_to_etcd = "ip route replace 172.30.0.0/24 via 169.254.0.1 dev eth0 onlink";
    one.node.exec(way_to_etcd);
    one.node.exec("ip route del default");
    let (one, two) = (one.agent(&net, &[]), two.agent(&net, &[]));
    one.exec(&format!("ip route add {}", routes.replace('\n', " ")));
    for device in DEVICES {
        let attached = format!("attach uplink_rx to ingress of {device}");
        eventually(&attached, SOON, || one.log().contains(&attached));
    }
    carries_everything(&Pair::of(lab, net, one, two));
}
