//! ICMP errors: the packet they complain about is translated too (RFC 5508 section 4.2).

use super::Endpoint;
use super::entry::{Key, WAY_IN, WAY_OUT};
use super::packet::Packet;
use super::transport::Transport;
use crate::csum::Delta;
use crate::header::{Ip, PROTO_UDP};

/// What an ICMP error carries of the packet it complains about.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Embedded {
    pub ip: Ip,
    /// The first eight bytes behind it, which RFC 792 guarantees.
    pub head: [u8; 8],
    /// TCP's checksum, if the error carries that much.
    pub tcp_check: Option<[u8; 2]>,
}

impl Embedded {
    /// The key under which the flow of the embedded packet is found, for an error that goes `way`.
    /// `None` for an error about an error, and for fragments that are not the first.
    #[inline(always)]
    pub fn key(&self, way: u8) -> Option<Key> {
        if self.ip.fragment_offset() != 0 {
            return None;
        }
        // What the error is about went the other way.
        let packet = Packet::new(&self.ip, way ^ (WAY_IN | WAY_OUT), &self.head, 0)?;
        Some(match way {
            WAY_IN => packet.key.reply_to(packet.key.source()),
            _ => packet.answer(),
        })
    }
}

/// The same after translation, with the checksum of the ICMP message around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewritten {
    pub embedded: Embedded,
    pub icmp_check: [u8; 2],
}

/// Gives the embedded packet the endpoint it had on the other side of the translation.
///
/// `way` is the way of the error: one that arrives carries a packet we sent, whose source changes; one that
/// leaves carries a packet that came, whose destination changes.
#[inline(always)]
pub fn rewrite(icmp_check: [u8; 2], before: &Embedded, way: u8, to: Endpoint) -> Rewritten {
    let mut after = *before;
    let from = match way {
        WAY_IN => core::mem::replace(&mut after.ip.src, to.addr),
        _ => core::mem::replace(&mut after.ip.dst, to.addr),
    };
    let address = Delta::default().address(from, to.addr);
    after.ip.check = address.apply(before.ip.check);
    let mut all = address.word(before.ip.check, after.ip.check);

    let transport = Transport::of(before.ip.proto);
    let port_at = match (transport, way) {
        (Transport::Icmp, _) => 4,
        (_, WAY_IN) => 0,
        _ => 2,
    };
    let mut port = Delta::default();
    if !matches!(transport, Transport::Other) {
        let old = [before.head[port_at], before.head[port_at + 1]];
        [after.head[port_at], after.head[port_at + 1]] = to.port;
        port = port.word(old, to.port);
        all = all.and(port);
    }
    match transport {
        Transport::Tcp => {
            if let Some(old) = before.tcp_check {
                let new = address.and(port).apply(old);
                after.tcp_check = Some(new);
                all = all.word(old, new);
            }
        }
        Transport::Udp => {
            let old = [before.head[6], before.head[7]];
            if before.ip.proto != PROTO_UDP || old != [0, 0] {
                let new = match address.and(port).apply(old) {
                    [0, 0] => [0xff, 0xff],
                    new => new,
                };
                [after.head[6], after.head[7]] = new;
                all = all.word(old, new);
            }
        }
        Transport::Icmp => {
            let old = [before.head[2], before.head[3]];
            let new = port.apply(old);
            [after.head[2], after.head[3]] = new;
            all = all.word(old, new);
        }
        Transport::Sctp | Transport::Other => {}
    }
    Rewritten {
        embedded: after,
        icmp_check: all.apply(icmp_check),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, PacketHeaders};
    use proptest::prelude::*;
    use rstest::rstest;

    const POD: Endpoint = Endpoint {
        addr: [10, 244, 1, 5],
        port: [0x88, 0x11],
    };
    const US: Endpoint = Endpoint {
        addr: [192, 168, 0, 1],
        port: [0xc3, 0x50],
    };
    const REMOTE: [u8; 4] = [198, 51, 100, 9];

    /// The kinds of packet an error may be about.
    #[derive(Debug, Clone, Copy)]
    enum About {
        Tcp,
        Udp,
        UdpWithoutChecksum,
        Ping,
    }

    /// A whole packet between two endpoints.
    fn packet(about: About, src: Endpoint, dst: Endpoint, payload: &[u8]) -> Vec<u8> {
        let ip = PacketBuilder::ipv4(src.addr, dst.addr, 60);
        let (sport, dport) = (u16::from_be_bytes(src.port), u16::from_be_bytes(dst.port));
        let mut out = Vec::new();
        match about {
            About::Tcp => ip
                .tcp(sport, dport, 99, 1000)
                .write(&mut out, payload)
                .unwrap(),
            About::Udp | About::UdpWithoutChecksum => {
                ip.udp(sport, dport).write(&mut out, payload).unwrap();
            }
            About::Ping => ip
                .icmpv4_echo_request(sport, 3)
                .write(&mut out, payload)
                .unwrap(),
        }
        if matches!(about, About::UdpWithoutChecksum) {
            out[26..28].fill(0);
        }
        out
    }

    fn error_about(carried: &[u8]) -> Vec<u8> {
        let mut message = vec![3, 1, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(carried);
        let check = checksum(&message);
        message[2..4].copy_from_slice(&check);
        message
    }

    fn checksum(bytes: &[u8]) -> [u8; 2] {
        let sum = bytes.chunks(2).fold(0u32, |sum, word| {
            sum + u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]))
        });
        (!crate::csum::fold(sum)).to_be_bytes()
    }

    fn embedded(carried: &[u8]) -> Embedded {
        Embedded {
            ip: bytemuck::pod_read_unaligned(&carried[..20]),
            head: carried[20..28].try_into().unwrap(),
            tcp_check: carried.get(36..38).map(|c| c.try_into().unwrap()),
        }
    }

    /// Applies [`rewrite`] to the bytes of an error, as the program does.
    fn translated(error: &[u8], way: u8, to: Endpoint) -> Vec<u8> {
        let before = embedded(&error[8..]);
        let done = rewrite([error[2], error[3]], &before, way, to);
        let mut out = error.to_vec();
        out[2..4].copy_from_slice(&done.icmp_check);
        out[8..28].copy_from_slice(bytemuck::bytes_of(&done.embedded.ip));
        out[28..36].copy_from_slice(&done.embedded.head);
        if let (Some(check), 6) = (done.embedded.tcp_check, before.ip.proto) {
            out[44..46].copy_from_slice(&check);
        }
        out
    }

    #[rstest]
    fn an_error_that_arrives_carries_the_pods_packet(
        #[values(About::Tcp, About::Udp, About::UdpWithoutChecksum, About::Ping)] about: About,
        #[values(28, 30, 38, 60)] carried: usize,
    ) {
        let remote = Endpoint {
            addr: REMOTE,
            port: [0, 53],
        };
        let sent = packet(about, US, remote, &[7; 40]);
        let original = packet(about, POD, remote, &[7; 40]);

        let out = translated(&error_about(&sent[..carried]), WAY_IN, POD);

        assert_eq!(out, error_about(&original[..carried]));
    }

    #[rstest]
    fn an_error_that_leaves_carries_the_packet_as_it_came(
        #[values(About::Tcp, About::Udp, About::UdpWithoutChecksum)] about: About,
        #[values(28, 38, 60)] carried: usize,
    ) {
        let remote = Endpoint {
            addr: REMOTE,
            port: [0, 53],
        };
        let came = packet(about, remote, US, &[7; 40]);
        let delivered = packet(about, remote, POD, &[7; 40]);

        let out = translated(&error_about(&delivered[..carried]), WAY_OUT, US);

        assert_eq!(out, error_about(&came[..carried]));
    }

    proptest! {
        #[test]
        fn what_results_is_a_valid_packet_in_a_valid_error(
            addr: [u8; 4], port: [u8; 2], other_port: [u8; 2], payload: Vec<u8>,
            about in prop_oneof![Just(About::Tcp), Just(About::Udp), Just(About::Ping)],
        ) {
            let remote = Endpoint { addr: REMOTE, port: other_port };
            let error = error_about(&packet(about, US, remote, &payload));
            let out = translated(&error, WAY_IN, Endpoint { addr, port });
            prop_assert!(matches!(checksum(&out), [0, 0] | [0xff, 0xff]));
            let inner = PacketHeaders::from_ip_slice(&out[8..]).unwrap();
            let Some(etherparse::NetHeaders::Ipv4(ip, _)) = inner.net else {
                panic!("not IPv4: {:?}", inner.net)
            };
            prop_assert_eq!(ip.source, addr);
            prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            let payload = inner.payload.slice();
            match inner.transport.unwrap() {
                etherparse::TransportHeader::Tcp(h) => {
                    prop_assert_eq!(h.checksum, h.calc_checksum_ipv4(&ip, payload).unwrap());
                    prop_assert_eq!(h.source_port.to_be_bytes(), port);
                }
                etherparse::TransportHeader::Udp(h) => {
                    prop_assert_eq!(h.checksum, h.calc_checksum_ipv4(&ip, payload).unwrap());
                    prop_assert_eq!(h.source_port.to_be_bytes(), port);
                }
                etherparse::TransportHeader::Icmpv4(h) => {
                    prop_assert_eq!(h.checksum, h.icmp_type.calc_checksum(payload));
                }
                other => unreachable!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_flow_is_found_by_the_embedded_packet() {
        let remote = Endpoint {
            addr: REMOTE,
            port: [0, 53],
        };
        let out = Key {
            src: POD.addr,
            dst: REMOTE,
            src_port: POD.port,
            dst_port: remote.port,
            proto: 17,
            way: WAY_OUT,
            pad: [0; 2],
        };
        let sent = embedded(&packet(About::Udp, US, remote, &[]));
        assert_eq!(sent.key(WAY_IN), Some(out.other_half(US)));
        let delivered = embedded(&packet(About::Udp, remote, POD, &[]));
        assert_eq!(delivered.key(WAY_OUT), Some(out));
    }

    #[test]
    fn no_error_about_an_error() {
        let carried = error_about(&packet(About::Udp, US, POD, &[]));
        let mut ip = packet(About::Udp, US, POD, &[])[..20].to_vec();
        ip[9] = 1;
        ip.extend_from_slice(&carried[..8]);
        assert_eq!(embedded(&ip).key(WAY_IN), None);
    }
}
