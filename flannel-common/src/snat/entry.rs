//! Keys and values of the SNAT maps.

use bytemuck::{Pod, Zeroable};

use super::{Endpoint, Packet, Seen, Side};
use crate::Ipv4;

/// [`Key::way`]: as the packet was before translation, on its way out.
pub const WAY_OUT: u8 = 1;
/// [`Key::way`]: as the reply arrives.
pub const WAY_IN: u8 = 2;

/// [`Entry::kind`]: half of a translated flow.
pub const KIND_PAIR: u8 = 1;
/// [`Entry::kind`]: out only; a connection that came in, its replies keep their source.
pub const KIND_LEAVE: u8 = 2;
/// [`Entry::kind`]: in only; sent by the node itself or by the kernel's NAT, not ours to translate.
pub const KIND_OWN: u8 = 3;

/// A packet's addresses and ports, in network order.
///
/// For ICMP queries the port of the asking side is the id, and the other port is the type of the query
/// that goes out, so that a ping and its echo have the same key and two pings crossing each other do not.
/// Protocols without ports have zeros.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Key {
    pub src: Ipv4,
    pub dst: Ipv4,
    pub src_port: [u8; 2],
    pub dst_port: [u8; 2],
    pub proto: u8,
    /// [`WAY_OUT`] or [`WAY_IN`].
    pub way: u8,
    pub pad: [u8; 2],
}

impl Key {
    /// The packet's source.
    #[inline(always)]
    pub const fn source(&self) -> Endpoint {
        Endpoint {
            addr: self.src,
            port: self.src_port,
        }
    }

    /// The packet's destination.
    #[inline(always)]
    pub const fn destination(&self) -> Endpoint {
        Endpoint {
            addr: self.dst,
            port: self.dst_port,
        }
    }

    /// Which of [`Entry::sides`] sends what has this key.
    #[inline(always)]
    pub const fn side(&self) -> usize {
        (self.way >> 1 & 1) as usize
    }

    /// What the other half of a translated flow names.
    #[inline(always)]
    pub const fn source_of_half(&self) -> Endpoint {
        match self.way {
            WAY_OUT => self.source(),
            _ => self.destination(),
        }
    }

    /// By words: field by field, the hash of a look-up would wait for words that were just written in pieces.
    #[inline(always)]
    pub const fn of(src: Ipv4, dst: Ipv4, ports: [u8; 4], proto: u8, way: u8) -> Self {
        bytemuck::must_cast([
            u32::from_ne_bytes(src),
            u32::from_ne_bytes(dst),
            u32::from_ne_bytes(ports),
            u32::from_ne_bytes([proto, way, 0, 0]),
        ])
    }

    /// Of an out key: as the replies to it arrive when it left as `us`.
    #[inline(always)]
    pub const fn reply_to(&self, us: Endpoint) -> Self {
        let ports = both(self.dst_port, us.port);
        Self::of(self.dst, us.addr, ports, self.proto, WAY_IN)
    }

    /// Of an in key: what leaves when `source` answers it, or what it answers.
    #[inline(always)]
    pub const fn sent_by(&self, source: Endpoint) -> Self {
        let ports = both(source.port, self.src_port);
        Self::of(source.addr, self.src, ports, self.proto, WAY_OUT)
    }

    /// The other half of a flow whose half under `self` names `target`.
    #[inline(always)]
    pub const fn other_half(&self, target: Endpoint) -> Self {
        match self.way {
            WAY_OUT => self.reply_to(target),
            _ => self.sent_by(target),
        }
    }
}

/// Source and destination port, as they stand in a packet.
#[inline(always)]
const fn both([a, b]: [u8; 2], [c, d]: [u8; 2]) -> [u8; 4] {
    [a, b, c, d]
}

/// What is known of one way of a flow.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Entry {
    /// Out: the new source. In: the new destination.
    pub addr: Ipv4,
    /// Its port, network order.
    pub port: [u8; 2],
    /// [`KIND_PAIR`], [`KIND_LEAVE`] or [`KIND_OWN`].
    pub kind: u8,
    /// [`Seen`] as a byte.
    pub seen: u8,
    /// Monotonic nanoseconds of the last packet this way.
    pub last_seen: u64,
    /// Monotonic nanoseconds of the first packet of the flow.
    pub opened: u64,
    /// TCP: the side that speaks on the way out, and the one that speaks on the way in. Each half of a translated flow knows its own.
    pub sides: [Side; 2],
}

/// An [`Entry`] before layout 10.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Former {
    pub addr: Ipv4,
    pub port: [u8; 2],
    pub kind: u8,
    pub seen: u8,
    pub last_seen: u64,
    pub opened: u64,
}

/// Of what its sides said nothing is known.
impl From<Former> for Entry {
    fn from(former: Former) -> Self {
        Self {
            addr: former.addr,
            port: former.port,
            kind: former.kind,
            seen: former.seen,
            last_seen: former.last_seen,
            opened: former.opened,
            sides: [Side::NONE; 2],
        }
    }
}

impl Entry {
    #[inline(always)]
    pub const fn new(kind: u8, to: Endpoint, seen: Seen, now: u64) -> Self {
        Self {
            addr: to.addr,
            port: to.port,
            kind,
            seen: seen.0,
            last_seen: now,
            opened: now,
            sides: [Side::NONE; 2],
        }
    }

    /// After the packet that made it, on the way out.
    #[inline(always)]
    #[must_use]
    pub const fn sent(self, packet: &Packet) -> Self {
        let side = Side::new(&packet.segment, packet.bits);
        Self {
            sides: [side, Side::NONE],
            ..self
        }
    }

    /// The same on the way in.
    #[inline(always)]
    #[must_use]
    pub const fn received(self, packet: &Packet) -> Self {
        let side = Side::new(&packet.segment, packet.bits);
        Self {
            sides: [Side::NONE, side],
            ..self
        }
    }

    /// The other half of the same flow, if it has to be made from this one: it names `target`.
    #[inline(always)]
    #[must_use]
    pub const fn mirrored(&self, target: Endpoint) -> Self {
        Self {
            addr: target.addr,
            port: target.port,
            sides: [Side::NONE; 2],
            ..*self
        }
    }

    #[inline(always)]
    pub const fn target(&self) -> Endpoint {
        Endpoint {
            addr: self.addr,
            port: self.port,
        }
    }

    /// Whether this is the half of a translated flow that names `to`.
    #[inline(always)]
    pub fn pairs_with(&self, to: Endpoint) -> bool {
        self.kind == KIND_PAIR && self.addr == to.addr && self.port == to.port
    }

    /// Nanoseconds from the first packet of the flow to the last one this way.
    #[inline(always)]
    pub const fn length(&self) -> u64 {
        self.last_seen.saturating_sub(self.opened)
    }
}

/// One fragmented packet on one way.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FragmentKey {
    pub src: Ipv4,
    pub dst: Ipv4,
    /// IPv4 identification, network order.
    pub id: [u8; 2],
    pub proto: u8,
    /// [`WAY_OUT`] or [`WAY_IN`].
    pub way: u8,
}

/// What the first fragment said about those that follow.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Fragment {
    /// Out: the new source. In: the new destination.
    pub addr: Ipv4,
    /// [`KIND_PAIR`] or [`KIND_LEAVE`].
    pub kind: u8,
    pub pad: [u8; 3],
    /// Monotonic nanoseconds of the first fragment.
    pub opened: u64,
}

const _: () = assert!(size_of::<Key>() == 16 && size_of::<Entry>() == 56);
const _: () = assert!(size_of::<Former>() == 24);
const _: () = assert!(size_of::<FragmentKey>() == 12 && size_of::<Fragment>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_fields_where_the_packet_has_them() {
        let key = Key::of([1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12], 6, WAY_IN);
        let fields = Key {
            src: [1, 2, 3, 4],
            dst: [5, 6, 7, 8],
            src_port: [9, 10],
            dst_port: [11, 12],
            proto: 6,
            way: WAY_IN,
            pad: [0; 2],
        };
        assert_eq!(key, fields);
    }

    #[test]
    fn halves_name_each_other() {
        let out = Key {
            src: [10, 244, 1, 5],
            dst: [198, 51, 100, 9],
            src_port: [1, 2],
            dst_port: [0, 80],
            proto: 6,
            way: WAY_OUT,
            pad: [0; 2],
        };
        let as_node = Endpoint {
            addr: [192, 168, 0, 1],
            port: [200, 1],
        };
        let back = out.other_half(as_node);
        assert_eq!(back.source(), out.destination());
        assert_eq!(back.destination(), as_node);
        assert_eq!(back.way, WAY_IN);
        assert_eq!(back.other_half(out.source()), out);
    }
}
