//! What the programs tell a listener about single packets.
//!
//! The listener brings the program [`TELLER`] and puts it into the map [`crate::maps::TELLER`]. While somebody listens, every
//! other program ends by going on there, and leaves two notes in the packet's control block of what it decided.

use bytemuck::{Pod, Zeroable};

use crate::header::{Ip, PROTO_TCP, PROTO_UDP, VERSION_IHL};
use crate::program::Program;
use crate::reason::Reason;
use crate::transport::L4;
use crate::{Ipv4, cidr};

/// Symbol in the object. It is on no hook and counts nothing, so it is no [`Program`].
pub const TELLER: &str = "tell";

/// Bytes of the packet in an [`Event`]: tunnel headers, inner headers, and a little more. A power of two, so
/// that a mask tells the verifier how much is copied.
pub const HEAD: usize = 128;

/// One packet at the end of one program.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Event {
    pub about: About,
    /// The packet as the program left it; behind [`About::caught`] bytes there is anything.
    pub head: [u8; HEAD],
}

/// What is known of the packet besides its bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct About {
    /// Monotonic nanoseconds.
    pub at: u64,
    /// The device whose hook the program is on.
    pub ifindex: u32,
    /// Length from the Ethernet header on, bytes.
    pub len: u32,
    /// Payload of each segment it stands for, bytes; 0: one packet.
    pub gso_size: u32,
    /// [`crate::program::Program`].
    pub program: u8,
    /// [`crate::reason::Reason`].
    pub reason: u8,
    /// Bytes of [`Event::head`] that are the packet's.
    pub caught: u8,
    /// Its lowest byte is the TC action.
    pub action: u8,
}

/// `TC_ACT_SHOT` of `linux/pkt_cls.h`.
const SHOT: u8 = 2;

/// What one program decided, in one word of the control block; 0: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note(pub u32);

impl Note {
    const IS_ONE: u8 = 1;

    /// `action`: of TC, from -1 to 127.
    #[inline(always)]
    pub const fn new(program: Program, reason: Reason, action: i32) -> Self {
        let [action, ..] = action.to_le_bytes();
        Self(u32::from_ne_bytes([
            program as u8,
            reason as u8,
            action,
            Self::IS_ONE,
        ]))
    }

    /// Program, reason and TC action, as in [`About`].
    #[inline(always)]
    pub const fn read(self) -> Option<(u8, u8, u8)> {
        match self.0.to_ne_bytes() {
            [program, reason, action, Self::IS_ONE] => Some((program, reason, action)),
            _ => None,
        }
    }

    /// Whether the program of this number sees packets that begin with their IP header.
    #[inline(always)]
    pub const fn is_bare(program: u8) -> bool {
        const BARE: [Program; 3] = [
            Program::UplinkTxIp,
            Program::SnatOpenIp,
            Program::SnatOddTxIp,
        ];
        let [one, two, three] = BARE;
        program == one as u8 || program == two as u8 || program == three as u8
    }

    #[inline(always)]
    pub const fn is_drop(action: u8) -> bool {
        action == SHOT
    }
}

/// Who listens, and to what. All zero: nobody.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Listen {
    /// Monotonic nanoseconds up to which somebody listens, so that a listener that was killed costs nothing.
    pub until: u64,
    /// One packet in `mask` + 1 is reported; a power of two less one. Drops are all reported.
    pub mask: u32,
    /// [`DROPS_ONLY`] and [`WHOLE`].
    pub flags: u32,
}

/// [`Listen::flags`]: packets that are not dropped are not reported.
pub const DROPS_ONLY: u32 = 1;
/// [`Listen::flags`]: an [`About`] and the packet go to [`crate::maps::CAPTURE`] instead of an [`Event`] to
/// [`crate::maps::EVENTS`].
pub const WHOLE: u32 = 2;

/// Prefixes that stand for one peer.
pub const PEER_PREFIXES: usize = 8;

/// An IPv4 prefix, host order. All zero: every address.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Prefix {
    pub network: u32,
    pub mask: u32,
}

impl Prefix {
    /// No address is in it.
    pub const NONE: Self = Self {
        network: 1,
        mask: 0,
    };

    const fn is_all(self) -> bool {
        self.mask == 0 && self.network == 0
    }

    #[inline(always)]
    const fn contains(self, address: Ipv4) -> bool {
        cidr::contains(self.network, self.mask, address)
    }
}

/// Which packets are reported. All zero: every one.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Filter {
    /// One of its addresses is in here,
    pub pod: Prefix,
    /// and one in one of these.
    pub peers: [Prefix; PEER_PREFIXES],
    /// ifindex of the device at hand; 0: any.
    pub device: u32,
    /// Of a packet for [`crate::maps::CAPTURE`] so many bytes, at most [`LONGEST`].
    pub snap: u32,
    /// TCP or UDP port of either end; 0: any.
    pub port: u16,
    /// UDP port behind which there is another packet to look at; 0: none.
    pub vxlan_port: u16,
}

/// A record of the perf buffer has 16 bits for its length, and headers.
pub const LONGEST: u32 = 65_000;

/// What a [`Filter`] looks for, in bits.
pub mod found {
    pub const POD: u32 = 1;
    pub const PEER: u32 = 2;
    pub const PORT: u32 = 4;
    pub const ALL: u32 = POD | PEER | PORT;
}

impl Filter {
    /// What need not be [found]: nobody asked for it.
    #[inline(always)]
    pub const fn not_asked(&self) -> u32 {
        let mut found = self.look_for_port(None);
        if self.pod.is_all() {
            found |= found::POD;
        }
        if self.peers[0].is_all() {
            found |= found::PEER;
        }
        found
    }

    /// What is [found] in one of the packet's headers.
    #[inline(always)]
    pub const fn look(&self, src: Ipv4, dst: Ipv4, ports: Option<[u16; 2]>) -> u32 {
        let mut found = 0;
        if self.pod.contains(src) || self.pod.contains(dst) {
            found |= found::POD;
        }
        let mut n = 0;
        while n < PEER_PREFIXES {
            if self.peers[n].contains(src) || self.peers[n].contains(dst) {
                found |= found::PEER;
                break;
            }
            n += 1;
        }
        found | self.look_for_port(ports)
    }

    #[inline(always)]
    const fn look_for_port(&self, ports: Option<[u16; 2]>) -> u32 {
        match ports {
            _ if self.port == 0 => found::PORT,
            Some([src, dst]) if src == self.port || dst == self.port => found::PORT,
            _ => 0,
        }
    }
}

/// Source and destination port of TCP and UDP. What the packet does not have is zero in `l4`.
#[inline(always)]
pub const fn ports(ip: &Ip, l4: &L4) -> Option<[u16; 2]> {
    let has_ports = ip.proto == PROTO_TCP || ip.proto == PROTO_UDP;
    if !has_ports || ip.version_ihl != VERSION_IHL || ip.fragment_offset() != 0 {
        return None;
    }
    Some([
        u16::from_be_bytes([l4[0], l4[1]]),
        u16::from_be_bytes([l4[2], l4[3]]),
    ])
}

const _: () = assert!(size_of::<Event>() == 152 && size_of::<Listen>() == 16);
const _: () = assert!(size_of::<Filter>() == 84);
// As numbers in an event.
const _: () = assert!(crate::reason::Reason::ALL.len() < 256 && HEAD < 256);

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(proto: u8, src: Ipv4, dst: Ipv4) -> Ip {
        Ip {
            version_ihl: VERSION_IHL,
            proto,
            src,
            dst,
            ..Ip::zeroed()
        }
    }

    fn l4(src: u16, dst: u16) -> L4 {
        let mut l4 = L4::zeroed();
        l4[..2].copy_from_slice(&src.to_be_bytes());
        l4[2..4].copy_from_slice(&dst.to_be_bytes());
        l4
    }

    fn prefix(address: Ipv4, len: u8) -> Prefix {
        Prefix {
            network: u32::from_be_bytes(address),
            mask: cidr::mask(len),
        }
    }

    fn wants(filter: &Filter, headers: &[(Ip, L4)]) -> bool {
        let found = headers
            .iter()
            .map(|(ip, l4)| filter.look(ip.src, ip.dst, ports(ip, l4)));
        found.fold(filter.not_asked(), |all, found| all | found) == found::ALL
    }

    #[test]
    fn without_wishes_everything_is_wanted() {
        let all = Filter::zeroed();
        assert!(wants(&all, &[]), "not even IPv4");
        assert!(wants(&all, &[(ip(1, [1; 4], [2; 4]), l4(0, 0))]));
    }

    #[test]
    fn either_end_of_either_header_counts_and_every_wish_has_to_be_met() {
        let (pod, other) = ([10, 244, 1, 2], [10, 244, 2, 3]);
        let outer = (ip(PROTO_UDP, [192, 0, 2, 1], [192, 0, 2, 2]), l4(9, 8472));
        let inner = (ip(PROTO_TCP, pod, other), l4(40_000, 80));
        let mut peers = [Prefix::NONE; PEER_PREFIXES];
        peers[1] = prefix([192, 0, 2, 2], 32);
        let filter = Filter {
            pod: prefix(pod, 32),
            peers,
            port: 80,
            ..Filter::zeroed()
        };
        assert!(wants(&filter, &[outer, inner]));
        assert!(!wants(&filter, &[inner]), "no peer");
        assert!(!wants(&filter, &[outer]), "no pod");
        let answer = (ip(PROTO_TCP, other, pod), l4(80, 40_000));
        assert!(wants(&filter, &[answer, outer]));
        let another = (ip(PROTO_TCP, pod, other), l4(40_000, 81));
        assert!(!wants(&filter, &[outer, another]));
        assert!(!wants(&filter, &[]));
    }

    #[test]
    fn what_has_no_ports_has_none() {
        let filter = Filter {
            port: 80,
            ..Filter::zeroed()
        };
        let later = Ip {
            fragment: 7_u16.to_be_bytes(),
            ..ip(PROTO_UDP, [1; 4], [2; 4])
        };
        assert!(!wants(&filter, &[(later, l4(80, 80))]));
        assert!(!wants(&filter, &[(ip(1, [1; 4], [2; 4]), l4(80, 80))]));
        assert!(wants(
            &filter,
            &[(ip(PROTO_UDP, [1; 4], [2; 4]), l4(1, 80))]
        ));
    }

    #[test]
    fn notes_say_what_was_decided() {
        let dropped = Note::new(Program::UplinkRx, Reason::SpoofedSource, 2);
        let (program, reason, action) = dropped.read().unwrap();
        assert_eq!(u32::from(program), Program::UplinkRx as u32);
        assert_eq!(u32::from(reason), Reason::SpoofedSource as u32);
        assert!(Note::is_drop(action));
        let (.., passed) = Note::new(Program::OverlayTx, Reason::Encap, -1)
            .read()
            .unwrap();
        assert_eq!(passed, 0xff);
        assert_eq!(Note(0).read(), None);
        assert!(Note::is_bare(Program::UplinkTxIp as u8) && !Note::is_bare(program));
        assert!(
            Note::new(Program::OverlayTx, Reason::Encap, 0)
                .read()
                .is_some()
        );
    }
}
