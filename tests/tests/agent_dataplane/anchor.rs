//! The anchor (`--gro=anchor`): what `uplink_rx` leaves to the stack comes back by it, checked as everything else. Packets with
//! options in the outer header are left to it; they are made by hand.

use std::collections::BTreeMap;
use std::net::UdpSocket;

use flannel_agent::base::mac::MacAddr;
use flannel_agent::base::options::{FastPath, Gro};
use flannel_agent::dataplane::AttachMode;
use flannel_agent::dataplane::view::View;
use flannel_agent::flannel::lease::LeaseAttrs;
use flannel_common::csum;
use flannel_common::program::Program::{AnchorRx, UplinkRx};
use flannel_common::reason::Reason;
use flannel_tests::netns::Netns;
use flannel_tests::packet::at::{INNER_ETH, OUTER_IP, OUTER_UDP, VXLAN};
use flannel_tests::packet::{Inner, patched, vxlan};
use flannel_tests::packet_socket::PacketSocket;
use flannel_tests::wait::{SOON, eventually_some, uninterrupted};
use flannel_tests::{raw, sweep};
use rstest::rstest;

use crate::rig::{Agent, Rig};

const OURS: [u8; 4] = [192, 168, 0, 1];
const PEER: [u8; 4] = [192, 168, 0, 2];
const CE: u8 = 0b11;
const ECT_0: u8 = 0b10;

fn rig() -> (Rig, Netns) {
    let mut rig = Rig::new();
    rig.fast_path = FastPath {
        gro: Gro::Anchor,
        ..rig.fast_path.clone()
    };
    let other = LeaseAttrs::vxlan([192, 168, 0, 3].into(), 1, MacAddr([2, 0, 0, 0, 0, 3]));
    rig.leases.insert("10.244.3.0/24".parse().unwrap(), other);
    let peer = Netns::create(&sweep::unique_name());
    let here = &rig.netns;
    here.run(&format!("ip link set far0 netns {}", peer.name()));
    here.run("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0");
    peer.run("ip link set far0 up");
    peer.run("ip addr add 192.168.0.2/24 dev far0");
    (rig, peer)
}

/// An encapsulated packet as its sender hands it to the wire, with an option that says nothing, from this address and with this
/// TOS byte.
fn with_option(frame: Vec<u8>, source: [u8; 4], tos: u8) -> Vec<u8> {
    const NO_OPERATION: [u8; 4] = [1; 4];
    // The sum would have to change with what tests change.
    let frame = patched(frame, OUTER_UDP + 6, &[0, 0]);
    let mut packet = frame[OUTER_IP..].to_vec();
    packet.splice(20..20, NO_OPERATION);
    packet[0] = 0x46;
    packet[1] = tos;
    packet[12..16].copy_from_slice(&source);
    packet
}

fn inner(payload: usize) -> Inner {
    Inner {
        payload,
        ..Inner::inbound()
    }
}

/// Frames that the stack gets by `flannel.1`.
struct Arrivals(PacketSocket);

impl Arrivals {
    fn next(&self) -> Vec<u8> {
        eventually_some("a frame at flannel.1", SOON, || {
            let mut frame = vec![0; 2048];
            let len = self.0.receive(&mut frame).ok()??;
            frame.truncate(len);
            // What the kernel says of itself goes out.
            (frame[12..14] == [8, 0]).then_some(frame)
        })
    }
}

async fn start(agent: &mut Agent<'_>) -> Arrivals {
    agent.converge().await;
    Arrivals(PacketSocket::on("flannel.1").unwrap())
}

/// What the anchor's program counted.
fn counted(agent: &Agent<'_>) -> BTreeMap<Reason, u64> {
    let view = View::open(&agent.rig.bpffs(), None).unwrap();
    let mut stats = view.stats().unwrap();
    let counts = stats.remove(&AnchorRx).unwrap().into_iter();
    counts
        .map(|(reason, count)| (reason, count.packets))
        .collect()
}

#[rstest]
#[case::tcx(AttachMode::Auto)]
#[case::clsact(AttachMode::Clsact)]
fn what_the_stack_decapsulates_arrives_to_the_byte(#[case] attach: AttachMode) {
    let (mut rig, peer) = rig();
    rig.attach = attach;
    rig.agent(async |agent| {
        let arrivals = start(agent).await;
        let other_mac = Inner {
            dst_mac: [6; 6],
            ..inner(200)
        };
        for sent in [inner(100).udp(), inner(101).tcp(), other_mac.udp()] {
            raw::send(&peer, &[with_option(vxlan(&sent), PEER, 0)]);
            // Addressed to our device, whatever it was.
            let wanted = patched(sent, 0, &[2, 0, 0, 0, 0, 1]);
            assert_eq!(arrivals.next(), wanted);
        }
        assert_eq!(counted(agent), BTreeMap::from([(Reason::DecapDirect, 3)]));
    });
}

/// By the kernel, which is why the program does not.
#[test]
fn a_congestion_mark_is_merged_once() {
    let (rig, peer) = rig();
    rig.agent(async |agent| {
        let arrivals = start(agent).await;
        let marked = |tos| {
            let frame = Inner { tos, ..inner(100) }.udp();
            with_option(vxlan(&frame), PEER, CE)
        };
        // What cannot carry it is dropped (RFC 6040).
        raw::send(&peer, &[marked(0), marked(ECT_0)]);
        let frame = arrivals.next();
        assert_eq!(frame[15], CE);
        let header = frame[14..34].try_into().unwrap();
        assert_eq!(frame[24..26], csum::ipv4_header(header), "a valid checksum");
        assert_eq!(counted(agent), BTreeMap::from([(Reason::DecapDirect, 1)]));
    });
}

#[test]
fn the_source_check_holds_here_too() {
    let (rig, peer) = rig();
    rig.agent(async |agent| {
        let arrivals = start(agent).await;
        let of = |src| vxlan(&Inner { src, ..inner(100) }.udp());
        let stranger = Inner {
            src_mac: [6; 6],
            ..inner(100)
        };
        raw::send(
            &peer,
            &[
                with_option(of([10, 244, 3, 7]), PEER, 0),
                with_option(of([10, 244, 1, 7]), PEER, 0),
                with_option(vxlan(&stranger.udp()), [192, 168, 0, 77], 0),
                with_option(vxlan(&inner(50).udp()), PEER, 0),
            ],
        );
        assert_eq!(arrivals.next(), inner(50).udp());
        let counts = [
            (Reason::DecapDirect, 1),
            (Reason::UnknownVtep, 1),
            (Reason::SpoofedSource, 2),
        ];
        assert_eq!(counted(agent), BTreeMap::from(counts));
    });
}

/// Behind the device is the node's stack, and its hook takes every VNI.
#[test]
fn nothing_that_no_network_takes_gets_to_the_node() {
    let (rig, peer) = rig();
    rig.agent(async |agent| {
        let arrivals = start(agent).await;
        let anchor = agent.dataplane.netlink().link("flanchor.8472").await;
        let mac = anchor.unwrap().unwrap().mac.unwrap();
        let socket = UdpSocket::bind("0.0.0.0:40000").unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let to_node = |dst_mac, payload| {
            let frame = Inner {
                dst: OURS,
                dst_mac,
                ..inner(payload)
            };
            vxlan(&frame.udp())
        };
        let vni_9 = |frame| patched(frame, VXLAN + 4, &[0, 0, 9]);
        let ipv6 = patched(to_node(mac, 12), INNER_ETH + 12, &[0x86, 0xdd]);
        let packets = [
            vni_9(to_node(mac, 10)),
            vni_9(to_node([0xff; 6], 11)),
            ipv6,
            // Ours.
            to_node(mac, 20),
        ];
        let packets = packets.map(|frame| with_option(frame, PEER, 0));
        raw::send(&peer, &packets);
        let mut got = [0; 100];
        assert_eq!(
            uninterrupted(|| socket.recv(&mut got)).unwrap(),
            20,
            "only what the overlay brings"
        );
        assert_eq!(arrivals.next()[30..34], OURS);
        let counts = [
            (Reason::DecapDirect, 1),
            (Reason::NotIpv4, 1),
            (Reason::OtherVni, 2),
        ];
        assert_eq!(counted(agent), BTreeMap::from(counts));
        let stats = View::open(&agent.rig.bpffs(), None)
            .unwrap()
            .stats()
            .unwrap();
        assert_eq!(stats[&UplinkRx][&Reason::OuterOptions].packets, 4);
    });
}
