//! Translated flows: every protocol there and back, to the byte.

#![cfg(test)]

use etherparse::Ipv4Header;
use flannel_common::program::Program::{SnatOpen, UplinkSnatRx, UplinkTx};
use flannel_common::reason::Reason;
use flannel_tests::packet::outside::{ACK, Plain, SYN, SYN_ACK, US, source, with_options};
use flannel_tests::packet::{Fixture, Node, REDIRECT, Run, UNSPEC};
use rstest::rstest;

type Make = fn(Plain) -> Vec<u8>;

/// A node with as many ports as most have.
fn with_all_ports() -> Fixture {
    Node {
        snat_ports: (49_152, 65_535),
        ..Node::default()
    }
    .load_snat()
}

#[rstest]
#[case::tcp(|p: Plain| p.tcp(SYN), |p: Plain| p.tcp(SYN_ACK))]
#[case::udp(Plain::udp, Plain::udp)]
#[case::udp_without_checksum(Plain::udp_without_checksum, Plain::udp_without_checksum)]
#[case::sctp(|p: Plain| p.other(132), |p: Plain| p.other(132))]
#[case::gre(|p: Plain| p.other(47), |p: Plain| p.other(47))]
#[case::esp(|p: Plain| p.other(50), |p: Plain| p.other(50))]
#[case::ping(Plain::ping, Plain::pong)]
fn there_and_back_to_the_byte(#[case] ask: Make, #[case] answer: Make) {
    let mut node = Node::default().load_snat();
    let packet = Plain {
        sport: 50_000,
        ..Plain::default()
    };
    let seen = packet.from(US, 50_000);
    for _ in 0..2 {
        let gone = node.run(UplinkTx, &ask(packet));
        assert_eq!((gone.action, gone.packet), (UNSPEC, ask(seen)));
        let back = node.run(UplinkSnatRx, &answer(seen.answer()));
        assert_eq!(
            (back.action, back.packet),
            (UNSPEC, answer(packet.answer()))
        );
    }
    assert_eq!(node.counted(SnatOpen), [(Reason::Snat, 1)], "the first");
    assert_eq!(node.counted(UplinkTx), [(Reason::Snat, 1)], "the second");
    assert_eq!(node.counted(UplinkSnatRx), [(Reason::SnatReply, 2)]);
}

#[rstest]
#[case::tcp(|p: Plain| p.tcp(SYN), |p: Plain| p.tcp(SYN_ACK))]
#[case::udp(Plain::udp, Plain::udp)]
#[case::udp_without_checksum(Plain::udp_without_checksum, Plain::udp_without_checksum)]
fn a_port_outside_the_range_is_changed(#[case] ask: Make, #[case] answer: Make) {
    let mut node = with_all_ports();
    for sport in [1, 1023, 40_000, 49_151] {
        let packet = Plain {
            sport,
            ..Plain::default()
        };
        let gone = node.run(UplinkTx, &ask(packet)).packet;
        let (addr, port) = source(&gone);
        assert_eq!(gone, ask(packet.from(US, port)));
        assert!(addr == US && port >= 49_152, "{port}");
        let back = node.run(UplinkSnatRx, &answer(packet.from(US, port).answer()));
        assert_eq!(back.packet, answer(packet.answer()));
    }
}

/// br_netfilter has shown it to conntrack as it was: without what that made of it, it arrives once more.
#[rstest]
#[case::tcp(|p: Plain| p.tcp(SYN), |p: Plain| p.tcp(SYN_ACK))]
#[case::udp(Plain::udp, Plain::udp)]
#[case::esp(|p: Plain| p.other(50), |p: Plain| p.other(50))]
#[case::ping(Plain::ping, Plain::pong)]
fn by_a_bridge_an_answer_arrives_twice(#[case] ask: Make, #[case] answer: Make) {
    let mut node = Node::default().load_snat();
    node.lends(&[(US, 24)]);
    let packet = Plain {
        sport: 50_000,
        ..Plain::default()
    };
    let seen = packet.from(US, 50_000);
    for (tracked, action) in [(false, UNSPEC), (true, REDIRECT)] {
        if tracked {
            node.device_is_tracked();
        }
        node.run(UplinkTx, &ask(packet));
        let back = node.run(UplinkSnatRx, &answer(seen.answer()));
        assert_eq!(
            (back.action, back.packet),
            (action, answer(packet.answer()))
        );
    }
    assert_eq!(node.counted(UplinkSnatRx), [(Reason::SnatReply, 2)]);
}

/// A pod that could choose would get what a server sends to somebody else on the node who has that port.
#[rstest]
#[case::tcp(|p: Plain| p.tcp(SYN))]
#[case::udp(Plain::udp)]
fn a_pod_does_not_choose_its_port(#[case] ask: Make) {
    let mut node = with_all_ports();
    let all = (1..=8u16).map(|server| {
        let packet = Plain {
            sport: 51_820,
            dport: 51_820 + server,
            ..Plain::default()
        };
        source(&node.run(UplinkTx, &ask(packet)).packet).1
    });
    let kept = all.filter(|port| *port == 51_820).count();
    assert!(kept <= 2, "{kept} of 8");
}

/// 0xffff is how UDP sends a checksum that came out as zero; zero would mean "none".
#[test]
fn a_udp_checksum_never_becomes_none() {
    let mut node = with_all_ports();
    for payload in 0..64 {
        for sport in 50_000..50_064 {
            let packet = Plain {
                sport,
                payload,
                ..Plain::default()
            };
            let gone = node.run(UplinkTx, &packet.udp()).packet;
            let (_, port) = source(&gone);
            assert_eq!(gone, packet.from(US, port).udp());
        }
    }
}

#[test]
fn options_are_carried_along() {
    let mut node = Node::default().load_snat();
    let packet = Plain {
        sport: 50_000,
        ..Plain::default()
    };
    let seen = packet.from(US, 50_000);
    let gone = node.run(UplinkTx, &with_options(&packet.tcp(SYN)));
    assert_eq!(gone.packet, with_options(&seen.tcp(SYN)));
    let back = node.run(UplinkSnatRx, &with_options(&seen.answer().tcp(SYN_ACK)));
    assert_eq!(back.packet, with_options(&packet.answer().tcp(SYN_ACK)));
}

#[test]
fn a_packet_of_many_segments_is_translated_whole() {
    let mut node = Node::default().load_snat();
    let packet = Plain {
        sport: 50_000,
        payload: 2800,
        ..Plain::default()
    };
    let bytes = packet.tcp(ACK);
    let run = Run {
        packet: &bytes,
        gso_size: 500,
        ..Run::default()
    };
    let gone = node.run_with(UplinkTx, &run);
    assert_eq!(gone.packet, packet.from(US, 50_000).tcp(ACK));
}

/// A UDP-Lite datagram that its checksum covers whole (RFC 3828), with a word of payload.
fn udp_lite(packet: Plain, word: u16) -> Vec<u8> {
    const L4: usize = 34;
    let mut bytes = packet.udp();
    bytes[23] = 136;
    bytes[L4 + 8..L4 + 10].copy_from_slice(&word.to_be_bytes());
    let header = Ipv4Header::from_slice(&bytes[14..]).unwrap().0;
    bytes[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    bytes[L4 + 6..L4 + 8].fill(0);
    let pseudo = [0, 136, 0, u8::try_from(bytes.len() - L4).unwrap()];
    let words = [&bytes[26..34], &pseudo, &bytes[L4..]].concat();
    let mut sum: u32 = words
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let check = match !u16::try_from(sum).unwrap() {
        0 => 0xffff,
        check => check,
    };
    bytes[L4 + 6..L4 + 8].copy_from_slice(&check.to_be_bytes());
    bytes
}

/// It has no "no checksum": what would be 0 is 0xffff.
#[test]
fn a_checksum_of_udp_lite_is_never_zero() {
    let mut node = Node {
        snat_ports: (50_000, 50_000),
        ..Node::default()
    }
    .load_snat();
    let packet = Plain::default();
    let seen = packet.from(US, 50_000);
    let is_ones = |word: &u16| udp_lite(seen, *word)[40..42] == [0xff; 2];
    let word = (0..=u16::MAX).find(is_ones).unwrap();
    let gone = node.run(UplinkTx, &udp_lite(packet, word));
    assert_eq!((gone.action, gone.packet), (UNSPEC, udp_lite(seen, word)));
}
