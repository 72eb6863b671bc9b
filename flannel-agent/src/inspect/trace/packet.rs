//! The packet that is traced: built, wrapped, and read back.

use std::fmt;
use std::net::Ipv4Addr;

use bytemuck::{Zeroable as _, bytes_of, pod_read_unaligned};
use clap::ValueEnum;
use flannel_common::header::{
    ETHERTYPE_IPV4, Eth, Ip, PROTO_ICMP, PROTO_IPIP, PROTO_TCP, PROTO_UDP, Udp, VERSION_IHL,
};
use flannel_common::transport::L4;
use flannel_common::vxlan::Outer;
use flannel_common::{Mac, csum, gbp, udp};

use crate::flannel::backend::Wire;

const TTL: u8 = 64;
const TTL_AT: usize = Eth::LEN + 8;
const PAYLOAD: [u8; 32] = [0; 32];
const ECHO: u8 = 8;

/// `--proto`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Proto {
    Tcp,
    Udp,
    /// An echo request
    Icmp,
}

/// `--tcp`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Segment {
    /// Opens a connection
    Syn,
    /// Is part of one
    Ack,
    Fin,
    Rst,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) src: Ipv4Addr,
    pub(super) dst: Ipv4Addr,
    pub(super) proto: Proto,
    /// Of ICMP, the id.
    pub(super) sport: u16,
    pub(super) port: u16,
    pub(super) segment: Segment,
}

impl Proto {
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Tcp => PROTO_TCP,
            Self::Udp => PROTO_UDP,
            Self::Icmp => PROTO_ICMP,
        }
    }
}

impl Segment {
    pub(super) const fn flags(self) -> u8 {
        match self {
            Self::Syn => 0x02,
            Self::Ack => 0x10,
            Self::Fin => 0x11,
            Self::Rst => 0x14,
        }
    }
}

impl Tuple {
    /// The first eight bytes behind the IPv4 header.
    pub(super) fn head(&self) -> [u8; 8] {
        let transport = self.transport();
        let mut head = [0; 8];
        head.copy_from_slice(&transport[..8]);
        head
    }

    /// The beginning of what follows the IPv4 header; the payload makes it long enough for any protocol.
    pub(super) fn l4(&self) -> L4 {
        let transport = self.transport();
        let mut l4 = L4::default();
        let len = l4.len();
        l4.copy_from_slice(&transport[..len]);
        l4
    }

    pub(super) fn ip(&self) -> Ip {
        let len = Ip::LEN + self.transport().len();
        let mut ip = Ip {
            version_ihl: VERSION_IHL,
            total_len: u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes(),
            // Do not fragment.
            fragment: [0x40, 0],
            ttl: TTL,
            proto: self.proto.number(),
            src: self.src.octets(),
            dst: self.dst.octets(),
            ..Ip::zeroed()
        };
        set_check(&mut ip);
        ip
    }

    /// The frame, addressed to `dst`.
    pub(super) fn frame(&self, src: Mac, dst: Mac) -> Vec<u8> {
        let eth = Eth {
            dst,
            src,
            ethertype: ETHERTYPE_IPV4,
        };
        [bytes_of(&eth), bytes_of(&self.ip()), &self.transport()].concat()
    }

    fn transport(&self) -> Vec<u8> {
        let (from, to) = (self.sport.to_be_bytes(), self.port.to_be_bytes());
        let mut bytes = match self.proto {
            Proto::Tcp => {
                let mut header = [0_u8; 20];
                header[..2].copy_from_slice(&from);
                header[2..4].copy_from_slice(&to);
                header[12] = 5 << 4;
                header[13] = self.segment.flags();
                header[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
                header.to_vec()
            }
            Proto::Udp => {
                let len = u16::try_from(8 + PAYLOAD.len()).unwrap_or(u16::MAX);
                [from, to, len.to_be_bytes(), [0; 2]].concat()
            }
            Proto::Icmp => [[ECHO, 0], [0; 2], from, [0, 1]].concat(),
        };
        bytes.extend_from_slice(&PAYLOAD);
        let (at, pseudo) = match self.proto {
            Proto::Tcp => (16, true),
            Proto::Udp => (6, true),
            Proto::Icmp => (2, false),
        };
        let check = self.checksum(&bytes, pseudo);
        bytes[at..at + 2].copy_from_slice(&check);
        bytes
    }

    fn checksum(&self, bytes: &[u8], pseudo: bool) -> [u8; 2] {
        let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        let mut sum: u32 = bytes.chunks_exact(2).map(word).sum();
        if pseudo {
            let addresses = [self.src.octets(), self.dst.octets()].concat();
            sum += addresses.chunks_exact(2).map(word).sum::<u32>();
            sum += u32::from(self.proto.number()) + u32::try_from(bytes.len()).unwrap_or(0);
        }
        (!csum::fold(sum)).to_be_bytes()
    }
}

fn set_check(ip: &mut Ip) {
    let mut header = [0; Ip::LEN];
    header.copy_from_slice(bytes_of(ip));
    ip.check = csum::ipv4_header(&header);
}

/// As the kernel forwards it: one hop less to live. `None`: it may not go on.
pub(super) fn forwarded(frame: &[u8]) -> Option<Vec<u8>> {
    let mut frame = frame.to_vec();
    let ip = frame.get_mut(Eth::LEN..Eth::LEN + Ip::LEN)?;
    let mut header: Ip = pod_read_unaligned(ip);
    header.ttl = header.ttl.checked_sub(1).filter(|ttl| *ttl > 0)?;
    set_check(&mut header);
    ip.copy_from_slice(bytes_of(&header));
    debug_assert_eq!(frame[TTL_AT], header.ttl);
    Some(frame)
}

/// With other MACs.
pub(super) fn addressed(frame: &[u8], src: Mac, dst: Mac) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[..6].copy_from_slice(&dst);
    frame[6..12].copy_from_slice(&src);
    frame
}

/// What the tunnel puts around a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wrapping {
    pub(super) src: Ipv4Addr,
    pub(super) dst: Ipv4Addr,
    pub(super) port: u16,
    pub(super) wire: Wire,
}

/// A frame as a peer's node sends it to the MAC `dst`.
pub(super) fn wrapped(frame: &[u8], wrapping: &Wrapping, dst: Mac) -> Vec<u8> {
    let packet = frame.get(Eth::LEN..).unwrap_or_default();
    let inside = match wrapping.wire {
        Wire::Vxlan { vni } => {
            let vxlan = [[0x08, 0, 0, 0], (vni << 8).to_be_bytes()].concat();
            datagram(45_678, wrapping.port, &[&vxlan, frame].concat())
        }
        Wire::Udp => datagram(wrapping.port, wrapping.port, packet),
        Wire::Ipip => packet.to_vec(),
    };
    let mut ip = Ip {
        version_ihl: VERSION_IHL,
        total_len: u16::try_from(Ip::LEN + inside.len())
            .unwrap_or(u16::MAX)
            .to_be_bytes(),
        ttl: TTL,
        proto: wrapping.wire.proto(),
        src: wrapping.src.octets(),
        dst: wrapping.dst.octets(),
        ..Ip::zeroed()
    };
    set_check(&mut ip);
    let eth = Eth {
        dst,
        src: [2, 0, 0, 0, 0, 1],
        ethertype: ETHERTYPE_IPV4,
    };
    [bytes_of(&eth), bytes_of(&ip), &inside].concat()
}

/// From its UDP header on.
fn datagram(from: u16, to: u16, inside: &[u8]) -> Vec<u8> {
    let len = Udp::LEN + inside.len();
    let udp = Udp {
        src: from.to_be_bytes(),
        dst: to.to_be_bytes(),
        len: u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes(),
        check: [0; 2],
    };
    [bytes_of(&udp), inside].concat()
}

/// A packet in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Described {
    ip: Ip,
    head: [u8; 8],
}

impl Described {
    /// `at`: where its IPv4 header begins.
    pub(super) fn of(frame: &[u8], at: usize) -> Option<Self> {
        let ip = pod_read_unaligned(frame.get(at..at + Ip::LEN)?);
        let mut head = [0; 8];
        head.copy_from_slice(frame.get(at + Ip::LEN..at + Ip::LEN + 8)?);
        Some(Self { ip, head })
    }

    pub(super) fn dst(&self) -> Ipv4Addr {
        self.ip.dst.into()
    }
}

impl fmt::Display for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (src, dst) = (Ipv4Addr::from(self.ip.src), Ipv4Addr::from(self.ip.dst));
        let port = |at: usize| u16::from_be_bytes([self.head[at], self.head[at + 1]]);
        match self.ip.proto {
            PROTO_ICMP => write!(f, "icmp {src} → {dst} id {}", port(4))?,
            PROTO_TCP => write!(f, "tcp {src}:{} → {dst}:{}", port(0), port(2))?,
            PROTO_UDP => write!(f, "udp {src}:{} → {dst}:{}", port(0), port(2))?,
            other => write!(f, "protocol {other} {src} → {dst}")?,
        }
        write!(f, ", TTL {}", self.ip.ttl)
    }
}

/// The tunnel headers of a frame that was encapsulated.
pub(super) fn outer(frame: &[u8]) -> Option<Outer> {
    let outer = frame.get(Eth::LEN..Eth::LEN + Outer::LEN)?;
    Some(pod_read_unaligned(outer))
}

/// Whom a frame goes to that this tunnel has encapsulated.
pub(super) fn tunnelled_to(frame: &[u8], wire: Option<Wire>, port: u16) -> Option<Ipv4Addr> {
    let ip: Ip = pod_read_unaligned(frame.get(Eth::LEN..Eth::LEN + Ip::LEN)?);
    let is = match wire {
        Some(Wire::Ipip) => ip.proto == PROTO_IPIP,
        _ => outer(frame)?.udp.dst == port.to_be_bytes(),
    };
    is.then_some(ip.dst.into())
}

/// Addresses of an IPv4 packet that is inside of another, and that packet.
fn in_ipv4(frame: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, Described)> {
    let outer: Ip = pod_read_unaligned(frame.get(Eth::LEN..Eth::LEN + Ip::LEN)?);
    let inner = Described::of(frame, Eth::LEN + Ip::LEN)?;
    let is = outer.proto == PROTO_IPIP && outer.version_ihl == VERSION_IHL && inner.ip.is_ipv4();
    is.then_some((outer.src.into(), outer.dst.into(), inner))
}

/// Without a bit that no device of Linux sets.
fn is_tunnel(outer: &Outer) -> bool {
    let flags = outer.vxlan.flags;
    let mark = gbp::mark(flags).ok().flatten();
    outer.ip.proto == PROTO_UDP && flags == gbp::flags(mark.unwrap_or(0))
}

/// Addresses and port of a datagram that is an IPv4 packet and nothing else, as the backend udp has them.
fn bare(frame: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, u16)> {
    let outer: udp::Outer = pod_read_unaligned(frame.get(Eth::LEN..Eth::LEN + udp::Outer::LEN)?);
    let at = Eth::LEN + udp::Outer::LEN;
    let inner: Ip = pod_read_unaligned(frame.get(at..at + Ip::LEN)?);
    let udp = outer.udp;
    let room = u16::from_be_bytes(udp.len).checked_sub(8)?;
    let is = outer.ip.proto == PROTO_UDP
        && udp.src == udp.dst
        && inner.is_ipv4()
        && inner.total_len() == room;
    let port = u16::from_be_bytes(udp.dst);
    is.then_some((outer.ip.src.into(), outer.ip.dst.into(), port))
}

/// A frame in words, with its tunnel headers if it has any.
pub(in crate::inspect) fn describe(frame: &[u8]) -> String {
    if let Some((src, dst, port)) = bare(frame)
        && let Some(inner) = Described::of(frame, Eth::LEN + udp::Outer::LEN)
    {
        return format!("udp tunnel {src} → {dst}, port {port} [{inner}]");
    }
    if let Some((src, dst, inner)) = in_ipv4(frame) {
        return format!("ipip tunnel {src} → {dst} [{inner}]");
    }
    let inner = Described::of(frame, Eth::LEN + Outer::LEN);
    match (outer(frame), inner) {
        (Some(outer), Some(inner)) if is_tunnel(&outer) => {
            let (src, dst) = (Ipv4Addr::from(outer.ip.src), Ipv4Addr::from(outer.ip.dst));
            let [a, b, c, _] = outer.vxlan.vni;
            format!(
                "vxlan {src}:{} → {dst}:{}, VNI {}, {}to the MAC {} [{inner}]",
                u16::from_be_bytes(outer.udp.src),
                u16::from_be_bytes(outer.udp.dst),
                u32::from_be_bytes([0, a, b, c]),
                match gbp::mark(outer.vxlan.flags) {
                    Ok(Some(mark)) => format!("mark {mark:#x}, "),
                    _ => String::new(),
                },
                crate::base::mac::MacAddr(outer.eth.dst),
            )
        }
        _ => Described::of(frame, Eth::LEN)
            .map_or_else(|| "no IPv4 packet".to_owned(), |packet| packet.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use etherparse::SlicedPacket;

    use super::*;

    fn tuple(proto: Proto) -> Tuple {
        Tuple {
            src: Ipv4Addr::new(10, 244, 1, 5),
            dst: Ipv4Addr::new(10, 244, 2, 7),
            proto,
            sport: 40_000,
            port: 80,
            segment: Segment::Syn,
        }
    }

    /// One's complement sum of everything a checksum covers: 0xffff where it is right.
    fn transport_sum(frame: &[u8], pseudo: bool) -> u16 {
        let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        let (ip, rest) = frame[14..].split_at(20);
        let mut sum: u32 = rest.chunks(2).map(word).sum();
        if pseudo {
            sum += ip[12..].chunks(2).map(word).sum::<u32>();
            sum += u32::from(ip[9]) + u32::try_from(rest.len()).unwrap();
        }
        csum::fold(sum)
    }

    #[test]
    fn frames_are_what_others_read() {
        for (proto, pseudo) in [(Proto::Tcp, true), (Proto::Udp, true), (Proto::Icmp, false)] {
            let frame = tuple(proto).frame([2; 6], [4; 6]);
            let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
            assert!(sliced.transport.is_some(), "{proto:?}");
            assert_eq!(transport_sum(&frame, pseudo), 0xffff, "{proto:?}");
            let header = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap().0;
            assert_eq!(header.header_checksum, header.calc_header_checksum());
        }
    }

    #[test]
    fn a_hop_costs_one_of_the_ttl_and_the_last_ends_it() {
        let mut frame = tuple(Proto::Udp).frame([2; 6], [4; 6]);
        let next = forwarded(&frame).unwrap();
        let header = etherparse::Ipv4Header::from_slice(&next[14..]).unwrap().0;
        assert_eq!(header.time_to_live, 63);
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        frame[TTL_AT] = 1;
        assert_eq!(forwarded(&frame), None);
    }

    #[test]
    fn a_bare_packet_is_read_back() {
        let frame = tuple(Proto::Tcp).frame([2; 6], [4; 6]);
        let wrapping = Wrapping {
            src: Ipv4Addr::new(192, 0, 2, 2),
            dst: Ipv4Addr::new(192, 0, 2, 1),
            port: 8285,
            wire: Wire::Udp,
        };
        assert_eq!(
            describe(&wrapped(&frame, &wrapping, [0; 6])),
            "udp tunnel 192.0.2.2 → 192.0.2.1, port 8285 [tcp 10.244.1.5:40000 → 10.244.2.7:80, TTL 64]"
        );
    }

    #[test]
    fn a_packet_in_ipv4_is_read_back() {
        let frame = tuple(Proto::Udp).frame([2; 6], [4; 6]);
        let dst = Ipv4Addr::new(192, 0, 2, 1);
        let wrapping = Wrapping {
            src: Ipv4Addr::new(192, 0, 2, 2),
            dst,
            port: 0,
            wire: Wire::Ipip,
        };
        let wire = wrapped(&frame, &wrapping, [0; 6]);
        assert_eq!(
            describe(&wire),
            "ipip tunnel 192.0.2.2 → 192.0.2.1 [udp 10.244.1.5:40000 → 10.244.2.7:80, TTL 64]"
        );
        assert_eq!(tunnelled_to(&wire, Some(Wire::Ipip), 0), Some(dst));
        assert_eq!(tunnelled_to(&frame, Some(Wire::Ipip), 0), None);
    }

    #[test]
    fn a_wrapped_frame_is_read_back() {
        let frame = tuple(Proto::Tcp).frame([2; 6], [4; 6]);
        let wrapping = Wrapping {
            src: Ipv4Addr::new(192, 0, 2, 2),
            dst: Ipv4Addr::new(192, 0, 2, 1),
            port: 8472,
            wire: Wire::Vxlan { vni: 77 },
        };
        let wire = wrapped(&frame, &wrapping, [0; 6]);
        let outer = outer(&wire).unwrap();
        assert_eq!(outer.ip.src, [192, 0, 2, 2]);
        assert_eq!(outer.vxlan.vni, [0, 0, 77, 0]);
        let inner = Described::of(&wire, Eth::LEN + Outer::LEN).unwrap();
        assert_eq!(
            inner.to_string(),
            "tcp 10.244.1.5:40000 → 10.244.2.7:80, TTL 64"
        );
    }
}
