//! `GBP` of vxlan: netfilter's mark goes along in the tunnel, and rules of the other node go by it. The same with real flanneld at
//! either end.

#![cfg(test)]

use std::net::Ipv4Addr;

use flannel_common::program::Program::{OverlayCatch, UplinkRx};
use flannel_common::reason::Reason;
use flannel_tests::bpftool::count;
use flannel_tests::fast_path::{fast, hooked_if_ours, talk_tcp, talk_udp, was_fast};
use flannel_tests::pair::{Kind, Mix, Pair, Way};
use flannel_tests::prelude::*;
use flannel_tests::vxlan_frame::Frame;
use flannel_tests::with_daemon::start;
use rstest::rstest;

const ROUNDS: usize = 300;
const UDP: u8 = 17;
const TCP: u8 = 6;

/// Every bit that goes along.
const THERE: u32 = 0x0048_1234;
const BACK: u32 = 7;
/// No bit of it goes along, but that there is a mark.
const HIGH: u32 = 0x0100_0000;

/// The firewall is asked about ours, so that some packets take the agents' sockets.
fn pair(mix: Mix) -> Pair<AnyDaemon> {
    pair_under(mix, "")
}

/// Ours under a wrapper, which may take rights from it.
fn pair_under(mix: Mix, wrapper: &str) -> Pair<AnyDaemon> {
    let lab = Lab::new();
    let net = lab.network(Network::vxlan("/coreos.com/network", "10.244.0.0/16").gbp());
    let join = |kind, name| -> AnyDaemon {
        let node = lab.node(name);
        match kind {
            Kind::Ours => {
                let flags = ["--tunnel-firewall=ask"];
                Box::new(Agent::start_under(wrapper, node, &net, &flags))
            }
            _ => start(kind, node, &net, &[]),
        }
    };
    let (one, two) = mix.kinds();
    let (one, two) = (join(one, "one"), join(two, "two"));
    let pair = Pair::of(lab, net, one, two);
    hooked_if_ours(&pair.one);
    hooked_if_ours(&pair.two);
    pair
}

fn mark(way: &Way<'_>, proto: &str, mark: u32) {
    let from = way.client.address();
    way.from.node().exec(&format!(
        "iptables-nft -t mangle -A FORWARD -p {proto} -s {from} -j MARK --set-mark {mark:#x}"
    ));
}

/// Datagrams arrive with this mark, or not at all.
fn only(way: &Way<'_>, mark: u32) {
    way.to.node().exec(&format!(
        "iptables-nft -t mangle -A FORWARD -i flannel.1 -p udp -m mark ! --mark {mark:#x} -j DROP"
    ));
}

/// Flags of all that a node sent of a protocol, each once.
fn flags(frames: &[Vec<u8>], from: Ipv4Addr, proto: u8) -> Vec<[u8; 4]> {
    let frames = frames.iter().map(|frame| Frame::new(frame));
    let sent = frames.filter(|frame| frame.source() == from && frame.inner[9] == proto);
    let mut flags: Vec<[u8; 4]> = sent
        .map(|frame| {
            [
                frame.vxlan[0],
                frame.vxlan[1],
                frame.vxlan[2],
                frame.vxlan[3],
            ]
        })
        .collect();
    flags.sort_unstable();
    flags.dedup();
    flags
}

#[rstest]
fn a_mark_goes_along(
    #[values(Mix::Ours, Mix::OursAndFlanneld, Mix::FlanneldAndOurs, Mix::Flanneld)] mix: Mix,
) {
    let pair = pair(mix);
    let [there, back] = pair.both_ways();
    only(&there, THERE);
    only(&back, BACK);
    assert!(
        !talk_udp(&pair.pod1, &pair.pod2).round(),
        "nobody has marked it"
    );
    mark(&there, "udp", THERE);
    mark(&back, "udp", BACK);
    mark(&there, "tcp", HIGH);

    let wire = Capture::start(pair.one.node(), Node::UPLINK, "udp dst port 8472");
    let before = [&pair.one, &pair.two].map(fast);
    talk_udp(&pair.pod1, &pair.pod2).rounds(ROUNDS);
    let mut tcp = talk_tcp(&pair.pod1, &pair.pod2);
    tcp.rounds(ROUNDS);
    tcp.close();
    wire.packets(4 * ROUNDS);
    let frames = wire.finish();

    let [one, two] = [&pair.one, &pair.two].map(|member| member.node().address());
    assert_eq!(flags(&frames, one, UDP), [[0x88, 0x48, 0x12, 0x34]]);
    assert_eq!(flags(&frames, two, UDP), [[0x88, 0, 0, 7]]);
    assert_eq!(flags(&frames, one, TCP), [[0x88, 0, 0, 0]]);
    assert_eq!(flags(&frames, two, TCP), [[0x08, 0, 0, 0]]);
    was_fast(&pair.one, before[0], 400);
    was_fast(&pair.two, before[1], 400);
}

/// A packet whose turn it is to ask the host's firewall leaves by one agent's socket, and comes in by the other's. What its own programs
/// were told an agent knows without a look at them, which takes CAP_SYS_ADMIN.
#[rstest]
#[case::as_root("")]
#[case::without_sys_admin(
    "setpriv --bounding-set -all,+net_admin,+net_raw,+bpf,+perfmon --inh-caps -all"
)]
fn a_mark_goes_along_by_the_agents_sockets(#[case] rights: &str) {
    let pair = pair_under(Mix::Ours, rights);
    let [there, back] = pair.both_ways();
    for (way, value) in [(&there, THERE), (&back, BACK)] {
        only(way, value);
        mark(way, "udp", value);
    }
    let [one, two] = [&pair.one, &pair.two].map(|daemon| daemon.agent().expect("ours"));
    let asked = || {
        let (left, came) = (
            count(one, OverlayCatch, Reason::ByStack),
            count(two, UplinkRx, Reason::ByStack),
        );
        [left, came]
    };
    let before = asked();
    let wire = Capture::start(one.node(), Node::UPLINK, "udp dst port 8472");
    let talk = talk_udp(&pair.pod1, &pair.pod2);
    eventually("it is their turn again", SOON, || {
        talk.rounds(1);
        asked()
            .iter()
            .zip(before)
            .all(|(now, before)| *now > before)
    });
    talk.rounds(1);
    wire.packets(2);
    let sent = flags(&wire.finish(), one.node().address(), UDP);
    assert_eq!(sent, [[0x88, 0x48, 0x12, 0x34]]);
}
