//! What `tcpdump` and the counters of devices show, as docs/drop-in.md says it.

#![cfg(test)]

use std::collections::BTreeMap;

use flannel_tests::capture::Capture;
use flannel_tests::fast_path::{agents, talk_udp};
use flannel_tests::lab::Options;
use flannel_tests::member::Member;
use flannel_tests::pair::Pair;
use flannel_tests::prelude::*;
use serde_json::Value;

const PACKETS: u32 = 50;

/// Packets that each device has received and sent.
type Counters = BTreeMap<String, [u64; 2]>;

fn counters(host: &(impl Host + ?Sized)) -> Counters {
    let all: Value = serde_json::from_str(&host.exec("ip -s -j link show")).unwrap();
    let devices = all.as_array().unwrap().iter();
    devices
        .map(|device| {
            let packets = |way: &str| device["stats64"][way]["packets"].as_u64().unwrap();
            let name = device["ifname"].as_str().unwrap().to_owned();
            (name, ["rx", "tx"].map(packets))
        })
        .collect()
}

/// Which counters, received and sent, took part.
#[track_caller]
fn counted(before: &Counters, now: &Counters, device: &str) -> [bool; 2] {
    [0, 1].map(|way| {
        let grown = now[device][way] - before[device][way];
        // ARP and the like on one side, packets that prove their flow anew on the other.
        assert!(
            grown < 20 || grown >= u64::from(PACKETS),
            "{device}: {grown}"
        );
        grown >= u64::from(PACKETS)
    })
}

fn ping(pair: &Pair<impl Member, impl Member>) {
    let ping = pair.pod1.ping(pair.pod2.address());
    ping.count(PACKETS).succeeds();
}

#[test]
fn through_the_stack_all_but_our_own_device_counts_and_shows_it() {
    let pair = agents(Options::default(), &[]);
    let node = pair.one.node();
    let tunnel = Capture::start(node, "flannel.1", "icmp");
    let before = counters(node);
    ping(&pair);
    let now = counters(node);
    let counted = |device: &str| counted(&before, &now, device);
    assert_eq!(counted("eth0"), [true, true]);
    assert_eq!(counted("cni0"), [true, true]);
    assert_eq!(counted(pair.pod1.port()), [true, true]);
    assert_eq!(counted("flannel.1"), [false, false]);
    // Behind the Ethernet header and 12 bytes of IPv4: the source.
    let far = pair.pod2.address().octets();
    let shown = tunnel.packets(PACKETS as usize);
    assert!(shown.iter().all(|packet| packet[26..30] == far));
}

#[test]
fn fast_packets_are_counted_where_they_enter_and_leave_the_node() {
    let pair = agents(Options::default(), &[]);
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    talk.rounds(20);
    let (before, inside) = (counters(pair.one.node()), counters(&pair.pod1));
    talk.rounds(PACKETS as usize);
    let now = counters(pair.one.node());
    assert_eq!(
        counted(&inside, &counters(&pair.pod1), "eth0"),
        [true, true],
        "in the pod"
    );
    let counted = |device: &str| counted(&before, &now, device);
    assert_eq!(counted("eth0"), [true, true]);
    assert_eq!(counted("cni0"), [false, false]);
    assert_eq!(
        counted(pair.pod1.port()),
        [true, false],
        "from the pod alone"
    );
    assert_eq!(counted("flannel.1"), [false, false]);
}

/// The control: flannel's device counts and shows both ways.
#[test]
fn flannel_s_own_device_counts_and_shows_everything() {
    let pair = Pair::of_agent_and_kernel();
    let node = pair.two.node();
    let tunnel = Capture::start(node, "flannel.1", "icmp");
    let before = counters(node);
    ping(&pair);
    assert_eq!(counted(&before, &counters(node), "flannel.1"), [true, true]);
    assert_eq!(
        tunnel.packets(2 * PACKETS as usize).len(),
        2 * PACKETS as usize
    );
}
