//! Packets between pods, the node and the outside, as bytes, built by a library that is not ours.

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header,
    PacketBuilder, PacketHeaders, TransportHeader,
};
use flannel_common::Ipv4;

/// Source MAC of all of them; the destination MAC is the loopback device's, which a test run takes for
/// the receiving device.
const FROM: [u8; 6] = [2, 0, 0, 0, 0, 5];
const TO: [u8; 6] = [0; 6];

/// Offset of the IPv4 header.
pub const IP: usize = 14;
/// Offset of what follows it, without options.
pub const L4: usize = 34;

/// One packet; defaults to what a pod sends to a server outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain {
    pub src: Ipv4,
    pub dst: Ipv4,
    pub sport: u16,
    pub dport: u16,
    pub payload: usize,
    /// Of a TCP segment.
    pub seq: u32,
    /// The same, if it has the flag.
    pub ack: u32,
}

pub const POD: Ipv4 = [10, 244, 1, 5];
pub const OTHER_POD: Ipv4 = [10, 244, 1, 6];
pub const REMOTE_POD: Ipv4 = [10, 244, 2, 7];
pub const SERVER: Ipv4 = [198, 51, 100, 9];
pub const ROUTER: Ipv4 = [203, 0, 113, 1];
pub const US: Ipv4 = [192, 168, 0, 1];

pub const SYN: u8 = 0x02;
pub const SYN_ACK: u8 = 0x12;
pub const ACK: u8 = 0x10;
pub const FIN_ACK: u8 = 0x11;
pub const RST: u8 = 0x04;

impl Default for Plain {
    fn default() -> Self {
        Self {
            src: POD,
            dst: SERVER,
            sport: 40_000,
            dport: 443,
            payload: 32,
            seq: 1000,
            ack: 77,
        }
    }
}

impl Plain {
    /// A packet of any kind from one address to another.
    pub fn between(src: Ipv4, dst: Ipv4) -> Self {
        Self {
            src,
            dst,
            ..Self::default()
        }
    }

    /// The answer to it.
    #[must_use]
    pub fn answer(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            ..self
        }
    }

    /// The same from somebody else.
    #[must_use]
    pub fn from(self, src: Ipv4, sport: u16) -> Self {
        Self { src, sport, ..self }
    }

    fn bytes(self) -> Vec<u8> {
        (0..self.payload).map(|i| i.to_le_bytes()[0]).collect()
    }

    fn ip(self) -> etherparse::PacketBuilderStep<IpHeaders> {
        let mut header = Ipv4Header::new(0, 63, IpNumber::UDP, self.src, self.dst).unwrap();
        header.identification = 0x1234;
        header.dont_fragment = false;
        let ip = IpHeaders::Ipv4(header, Ipv4Extensions::default());
        PacketBuilder::ethernet2(FROM, TO).ip(ip)
    }

    pub fn tcp(self, flags: u8) -> Vec<u8> {
        let mut builder = self.ip().tcp(self.sport, self.dport, self.seq, 65_000);
        if flags & SYN != 0 {
            builder = builder.syn();
        }
        if flags & ACK != 0 {
            builder = builder.ack(self.ack);
        }
        if flags & 1 != 0 {
            builder = builder.fin();
        }
        if flags & RST != 0 {
            builder = builder.rst();
        }
        let mut packet = Vec::new();
        builder.write(&mut packet, &self.bytes()).unwrap();
        packet
    }

    pub fn udp(self) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = self.ip().udp(self.sport, self.dport);
        builder.write(&mut packet, &self.bytes()).unwrap();
        packet
    }

    /// UDP that says it has no checksum.
    pub fn udp_without_checksum(self) -> Vec<u8> {
        let mut packet = self.udp();
        packet[L4 + 6..L4 + 8].fill(0);
        packet
    }

    /// An echo request whose id is the source port.
    pub fn ping(self) -> Vec<u8> {
        self.icmp(Icmpv4Type::EchoRequest(IcmpEchoHeader {
            id: self.sport,
            seq: 1,
        }))
    }

    /// An echo reply whose id is the destination port.
    pub fn pong(self) -> Vec<u8> {
        self.icmp(Icmpv4Type::EchoReply(IcmpEchoHeader {
            id: self.dport,
            seq: 1,
        }))
    }

    pub fn icmp(self, kind: Icmpv4Type) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = self.ip().icmpv4(kind);
        builder.write(&mut packet, &self.bytes()).unwrap();
        packet
    }

    /// Another protocol, with ports where SCTP has them.
    pub fn other(self, proto: u8) -> Vec<u8> {
        let mut payload = Vec::new();
        payload.extend_from_slice(&self.sport.to_be_bytes());
        payload.extend_from_slice(&self.dport.to_be_bytes());
        payload.extend_from_slice(&[0; 8]);
        payload.extend_from_slice(&self.bytes());
        let mut packet = Vec::new();
        self.ip()
            .write(&mut packet, IpNumber(proto), &payload)
            .unwrap();
        packet
    }

    /// An ICMP error from [`Plain::src`] to [`Plain::dst`] about the first `carried` bytes of `about`'s IPv4 packet.
    pub fn error(self, kind: u8, code: u8, about: &[u8], carried: usize) -> Vec<u8> {
        let about = &about[IP..];
        let mut packet = Vec::new();
        let header = Icmpv4Header::new(Icmpv4Type::Unknown {
            type_u8: kind,
            code_u8: code,
            bytes5to8: if (kind, code) == (3, 4) {
                [0, 0, 5, 120]
            } else {
                [0; 4]
            },
        });
        self.ip()
            .icmpv4(header.icmp_type)
            .write(&mut packet, &about[..carried.min(about.len())])
            .unwrap();
        packet
    }
}

/// Cuts the payload of an IPv4 packet into fragments of at most `size` bytes (a multiple of eight).
pub fn fragments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    assert_eq!(size % 8, 0);
    let payload = &packet[L4..];
    let count = payload.len().div_ceil(size);
    payload
        .chunks(size)
        .enumerate()
        .map(|(i, chunk)| {
            let mut fragment = packet[..L4].to_vec();
            let total = u16::try_from(20 + chunk.len()).unwrap();
            fragment[IP + 2..IP + 4].copy_from_slice(&total.to_be_bytes());
            let more = if i + 1 < count { 0x2000 } else { 0 };
            let offset = more | u16::try_from(i * size / 8).unwrap();
            fragment[IP + 6..IP + 8].copy_from_slice(&offset.to_be_bytes());
            refresh_header_checksum(&mut fragment);
            fragment.extend_from_slice(chunk);
            fragment
        })
        .collect()
}

/// Puts [`fragments`] together again.
pub fn reassemble(fragments: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = fragments[0][..L4].to_vec();
    let mut parts: Vec<_> = fragments.iter().collect();
    parts.sort_by_key(|f| u16::from_be_bytes([f[IP + 6], f[IP + 7]]) & 0x1fff);
    for part in parts {
        assert_eq!(part[IP + 12..L4], fragments[0][IP + 12..L4], "addresses");
        packet.extend_from_slice(&part[L4..]);
    }
    let total = u16::try_from(packet.len() - IP).unwrap();
    packet[IP + 2..IP + 4].copy_from_slice(&total.to_be_bytes());
    packet[IP + 6..IP + 8].fill(0);
    refresh_header_checksum(&mut packet);
    packet
}

/// Puts four bytes of IPv4 options (no operation) into a packet.
pub fn with_options(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet.splice(L4..L4, [1, 1, 1, 0]);
    packet[IP] = 0x46;
    let total = u16::try_from(packet.len() - IP).unwrap();
    packet[IP + 2..IP + 4].copy_from_slice(&total.to_be_bytes());
    refresh_header_checksum(&mut packet);
    packet
}

fn refresh_header_checksum(packet: &mut [u8]) {
    let len = usize::from(packet[IP] & 0xf) * 4;
    let (mut header, _) = Ipv4Header::from_slice(&packet[IP..IP + len]).unwrap();
    header.header_checksum = header.calc_header_checksum();
    packet[IP..IP + len].copy_from_slice(&header.to_bytes());
}

/// The source of a packet without options.
pub fn source(packet: &[u8]) -> (Ipv4, u16) {
    let addr = packet[IP + 12..IP + 16].try_into().unwrap();
    (addr, u16::from_be_bytes([packet[L4], packet[L4 + 1]]))
}

/// Fails unless every checksum of the packet is right.
pub fn assert_checksums(packet: &[u8]) {
    let headers = PacketHeaders::from_ethernet_slice(packet).unwrap();
    let Some(etherparse::NetHeaders::Ipv4(ip, _)) = headers.net else {
        panic!("not IPv4: {packet:02x?}")
    };
    assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IPv4");
    let payload = headers.payload.slice();
    match headers.transport {
        Some(TransportHeader::Tcp(h)) => {
            assert_eq!(h.checksum, h.calc_checksum_ipv4(&ip, payload).unwrap());
        }
        Some(TransportHeader::Udp(h)) if h.checksum != 0 => {
            assert_eq!(h.checksum, h.calc_checksum_ipv4(&ip, payload).unwrap());
        }
        Some(TransportHeader::Icmpv4(h)) => {
            assert_eq!(h.checksum, h.icmp_type.calc_checksum(payload));
        }
        _ => {}
    }
}
