//! One packet, as far as a decision needs it.

use super::entry::{Key, WAY_IN};
use super::transport::{Transport, counterpart, is_icmp_request};
use super::{Seen, Segment};
use crate::Ipv4;
use crate::header::Ip;

/// What every protocol with ports or ids has behind the IPv4 header.
const HEAD_LEN: usize = 8;

/// A packet's key and what it says about the state of its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    pub key: Key,
    /// [`Seen::SYN`] and so on, of this packet alone. What is not TCP looks like TCP in the middle of a
    /// connection, and an ICMP answer like the answer to a SYN.
    pub bits: u8,
    pub transport: Transport,
    pub segment: Segment,
}

impl Packet {
    /// Of a packet with ports, or of an ICMP query; `head` is what follows the IPv4 header.
    /// `None` for ICMP that is neither question nor answer. Of a TCP segment without its place in the stream.
    #[inline(always)]
    pub const fn new(ip: &Ip, way: u8, head: &[u8; HEAD_LEN], tcp_flags: u8) -> Option<Self> {
        Self::of(
            ip.src,
            ip.dst,
            ip.proto,
            way,
            head,
            tcp_flags,
            Segment::NONE,
        )
    }

    /// The same of single fields, which may lie better in memory than an [`Ip`] of which nothing is known.
    #[inline(always)]
    pub const fn of(
        src: Ipv4,
        dst: Ipv4,
        proto: u8,
        way: u8,
        head: &[u8; HEAD_LEN],
        tcp_flags: u8,
        segment: Segment,
    ) -> Option<Self> {
        let transport = Transport::of(proto);
        let ports = match transport {
            Transport::Other => [0; 4],
            Transport::Icmp => {
                let Some(other) = counterpart(head[0]) else {
                    return None;
                };
                match way {
                    WAY_IN => [0, other, head[4], head[5]],
                    _ => [head[4], head[5], 0, head[0]],
                }
            }
            _ => [head[0], head[1], head[2], head[3]],
        };
        let bits = match transport {
            Transport::Tcp => tcp_bits(tcp_flags),
            Transport::Icmp if !is_icmp_request(head[0]) => Seen::SYN | Seen::ACK,
            _ => Seen::ACK,
        };
        Some(Self {
            key: Key::of(src, dst, ports, proto, way),
            bits,
            transport,
            segment,
        })
    }

    /// What the packet shows of the state of a flow of which it is the first: a FIN counts once it is acknowledged.
    #[inline(always)]
    pub const fn shows(&self) -> u8 {
        self.bits & !Seen::FIN
    }

    /// Whether conntrack would let the packet begin a flow: not a reset, not an answer.
    #[inline(always)]
    pub const fn may_open(&self) -> bool {
        matches!(self.control(), Seen::SYN | Seen::ACK)
    }

    /// Whether the node's own packet shows that it uses the port: an answer to a connection that came in
    /// does, a reset does not.
    #[inline(always)]
    pub const fn is_worth_noting(&self) -> bool {
        self.bits & Seen::RST == 0
    }

    /// Whether it answers a question of ICMP: no pod's question could have the key that its note would get.
    #[inline(always)]
    pub const fn is_icmp_answer(&self) -> bool {
        matches!(self.transport, Transport::Icmp) && !self.may_open()
    }

    /// Whether somebody outside may have made the node send it: an answer, or a datagram, which may be one.
    #[inline(always)]
    pub const fn may_answer(&self) -> bool {
        !self.may_open() || !matches!(self.transport, Transport::Tcp)
    }

    /// Key under which the node's use of the port is noted: that of what a pod's flow under the port would get.
    #[inline(always)]
    pub const fn note(&self) -> Key {
        self.key.reply_to(self.key.source())
    }

    /// A TCP connection's very first packet.
    #[inline(always)]
    pub const fn is_syn(&self) -> bool {
        self.control() == Seen::SYN
    }

    #[inline(always)]
    const fn control(&self) -> u8 {
        self.bits & (Seen::SYN | Seen::ACK | Seen::RST)
    }

    /// The key of the packets that would answer this one on the way out: for a packet that arrived.
    #[inline(always)]
    pub const fn answer(&self) -> Key {
        // An arriving question is keyed by the type of its answer already.
        self.key.sent_by(self.key.destination())
    }
}

/// TCP's flags as [`Seen`] has them: three stay where they are, ACK moves down by one.
#[inline(always)]
const fn tcp_bits(flags: u8) -> u8 {
    flags & (Seen::FIN | Seen::SYN | Seen::RST) | flags >> 1 & Seen::ACK
}

#[cfg(test)]
mod tests {
    use super::super::WAY_OUT;
    use super::*;
    use bytemuck::Zeroable;
    use rstest::rstest;

    fn ip(proto: u8) -> Ip {
        Ip {
            proto,
            src: [10, 0, 0, 1],
            dst: [10, 0, 0, 2],
            ..Ip::zeroed()
        }
    }

    #[rstest]
    #[case::syn(0x02, true)]
    #[case::syn_with_ecn(0xc2, true)]
    #[case::syn_ack(0x12, false)]
    #[case::ack(0x10, true)]
    #[case::data(0x18, true)]
    #[case::fin_ack(0x11, true)]
    #[case::rst(0x04, false)]
    #[case::rst_ack(0x14, false)]
    #[case::no_flags(0x00, false)]
    #[case::fin_alone(0x01, false)]
    fn who_may_open_a_tcp_flow(#[case] flags: u8, #[case] may: bool) {
        let packet = Packet::new(&ip(6), WAY_OUT, &[0; 8], flags).unwrap();
        assert_eq!(packet.may_open(), may);
    }

    #[test]
    fn a_ping_out_and_its_echo_have_halves_of_one_key() {
        let out = Packet::new(&ip(1), WAY_OUT, &[8, 0, 0, 0, 7, 7, 0, 1], 0).unwrap();
        let mut back = ip(1);
        (back.src, back.dst) = (back.dst, back.src);
        let back = Packet::new(&back, WAY_IN, &[0, 0, 0, 0, 7, 7, 0, 1], 0).unwrap();
        assert_eq!(out.key.other_half(out.key.source()), back.key);
        assert!(out.may_open());
        assert!(!back.may_open());
    }

    #[test]
    fn a_ping_in_is_known_by_the_key_of_its_echo() {
        let mut ping = ip(1);
        (ping.src, ping.dst) = (ping.dst, ping.src);
        let ping = Packet::new(&ping, WAY_IN, &[8, 0, 0, 0, 7, 7, 0, 1], 0).unwrap();
        let echo = Packet::new(&ip(1), WAY_OUT, &[0, 0, 0, 0, 7, 7, 0, 1], 0).unwrap();
        let other_ping = Packet::new(&ip(1), WAY_OUT, &[8, 0, 0, 0, 7, 7, 0, 1], 0).unwrap();
        assert_eq!(ping.answer(), echo.key);
        assert_ne!(
            ping.answer(),
            other_ping.key,
            "our own ping with the same id"
        );
        assert!(ping.may_open());
        assert!(!echo.may_open());
    }

    #[test]
    fn icmp_that_neither_asks_nor_answers_has_no_key() {
        for kind in [3, 4, 5, 9, 10, 11, 12] {
            assert_eq!(
                Packet::new(&ip(1), WAY_OUT, &[kind, 0, 0, 0, 0, 0, 0, 0], 0),
                None
            );
        }
    }
}
