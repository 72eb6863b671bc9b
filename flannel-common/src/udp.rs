//! flannel's udp backend on the wire: the inner IPv4 packet as it is, as the payload of a datagram. Its proxy is a hop at
//! either end.

use bytemuck::{Pod, Zeroable};

use crate::change::Change;
use crate::header::{Ip, PROTO_ICMP, PROTO_UDP, Udp, VERSION_IHL};
use crate::reason::Reason;
use crate::vxlan::{TTL, Template, words};
use crate::{Ipv4, csum};

/// flannel's own, at both ends.
pub const DEFAULT_PORT: u16 = 8285;

/// What encapsulation puts in front of the inner IPv4 header.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Outer {
    pub ip: Ip,
    pub udp: Udp,
}

impl Outer {
    pub const LEN: usize = size_of::<Self>();
}

const OVERHEAD: u16 = 28;
const UDP_OVERHEAD: u16 = 8;
const _: () = assert!(Outer::LEN == OVERHEAD as usize);

/// What differs from packet to packet. The TOS byte does not: flannel's proxy looks at no congestion mark, so that one on the outer
/// header would be lost.
#[derive(Debug, Clone, Copy)]
pub struct Varying {
    pub remote: Ipv4,
    /// The inner header as it is to leave.
    pub inner: Ip,
    /// IPv4 identification; DF is 0, so routers may fragment.
    pub id: [u8; 2],
    /// Total length of the inner packet.
    pub inner_len: u16,
}

/// The headers of a node at `local`, for [`fill`]. `port`: source as well.
pub fn template(local: Ipv4, port: u16) -> Template {
    let port = port.to_be_bytes();
    let outer = Outer {
        ip: Ip {
            version_ihl: VERSION_IHL,
            ttl: TTL,
            proto: PROTO_UDP,
            src: local,
            ..Ip::zeroed()
        },
        udp: Udp {
            src: port,
            dst: port,
            ..Udp::zeroed()
        },
    };
    let mut bytes = [0u8; size_of::<Template>()];
    bytes[..Outer::LEN].copy_from_slice(bytemuck::bytes_of(&outer));
    Template(bytemuck::cast(bytes))
}

/// Bytes of [`fill`]: [`Outer`], then [`Ip::front`] of the inner packet.
pub const OUTER_BYTES: usize = Outer::LEN + Ip::FRONT;
const _: () = assert!(OUTER_BYTES == size_of::<[u64; 5]>());

/// Headers and the front of the inner one, as words. `None` if the result would pass 65,535 bytes. No UDP checksum, which over
/// IPv4 need not be.
#[inline(always)]
pub fn fill(Template(template): &Template, v: &Varying) -> Option<[u64; 5]> {
    let udp_len = v.inner_len.checked_add(UDP_OVERHEAD)?;
    let ip_len = v.inner_len.checked_add(OVERHEAD)?;
    let remote = u64::from(u32::from_ne_bytes(v.remote));
    let [f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11] = v.inner.front();

    let [w0, w1, w2, w3, ..] = *template;
    let mut w = [w0, w1, w2 | remote, w3, 0];
    w[0] |= u64::from(ip_len.to_be()) << 16 | u64::from(u16::from_ne_bytes(v.id)) << 32;
    w[3] |= u64::from(udp_len.to_be()) | u64::from(u32::from_ne_bytes([f0, f1, f2, f3])) << 32;
    w[4] = u64::from_ne_bytes([f4, f5, f6, f7, f8, f9, f10, f11]);
    let sum = words(w[0]) + words(w[1]) + words(remote);
    w[1] |= u64::from(!csum::fold(sum)) << 16;
    Some(w)
}

/// Checks the outer headers of an option-less, unfragmented datagram to our address and port; `packet_len` is the length from the
/// outer IPv4 header on.
///
/// # Errors
/// The reason why it is left to the stack.
#[inline(always)]
pub const fn check(outer: &Outer, packet_len: u32) -> Result<(), Reason> {
    let total = outer.ip.total_len();
    if total as u32 > packet_len {
        return Err(Reason::Truncated);
    }
    let behind = total.saturating_sub(OVERHEAD - UDP_OVERHEAD);
    if u16::from_be_bytes(outer.udp.len) != behind {
        return Err(Reason::LengthMismatch);
    }
    Ok(())
}

/// Checks the inner IPv4 header against the room that the outer lengths leave.
///
/// # Errors
/// [`Reason::NotIpv4`] or [`Reason::LengthMismatch`].
#[inline(always)]
pub const fn check_inner(outer: &Outer, inner: &Ip) -> Result<(), Reason> {
    inner.check_within(outer.ip.total_len().saturating_sub(OVERHEAD))
}

/// The hop that flannel's proxy is, sending as well as receiving.
///
/// # Errors
/// [`Reason::TtlExpired`]: its last one, of which nobody is told.
#[inline(always)]
pub const fn hop(ip: &Ip) -> Result<Ip, Reason> {
    if ip.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    Ok(Change::NONE.hop(ip))
}

/// What of a packet an answer says again: RFC 792, for headers without options.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Quoted {
    pub ip: Ip,
    pub data: [u8; 8],
}

/// The headers in front of [`Quoted`]: IPv4 and ICMP.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Unreachable {
    pub ip: Ip,
    icmp: [u8; 8],
}

const _: () = assert!(size_of::<Unreachable>() == Outer::LEN);

/// flannel's proxy answers to what it has no route for, in the name of its device: net unreachable, with a time to live of its own. Not
/// about ICMP, which might go on for ever, and of a packet in pieces about the first one alone (RFC 792).
#[inline(always)]
pub fn net_unreachable(from: Ipv4, quoted: &Quoted) -> Option<Unreachable> {
    /// As the proxy has it.
    const TTL: u8 = 8;
    const LEN: u16 = 56;
    const NET_UNREACHABLE: [u8; 2] = [3, 0];
    const {
        assert!(LEN as usize == size_of::<Unreachable>() + size_of::<Quoted>());
    }
    let about = &quoted.ip;
    if about.proto == PROTO_ICMP || about.fragment_offset() != 0 || about.version_ihl != VERSION_IHL
    {
        return None;
    }
    let [kind, code] = NET_UNREACHABLE;
    let mut answer = Unreachable {
        ip: Ip {
            version_ihl: VERSION_IHL,
            total_len: LEN.to_be_bytes(),
            ttl: TTL,
            proto: PROTO_ICMP,
            src: from,
            dst: about.src,
            ..Ip::zeroed()
        },
        icmp: [kind, code, 0, 0, 0, 0, 0, 0],
    };
    let [a, b, c, d, e, icmp, _] = bytemuck::must_cast::<_, [u32; 7]>(answer);
    answer.ip.check = checksum(halves([a, b, c, d, e, 0, 0]));
    let [a, b, c, d, e, f, g] = bytemuck::must_cast::<_, [u32; 7]>(*quoted);
    let sum = halves([a, b, c, d, e, f, g]) + halves([icmp, 0, 0, 0, 0, 0, 0]);
    let [high, low] = checksum(sum);
    answer.icmp = [kind, code, high, low, 0, 0, 0, 0];
    Some(answer)
}

#[inline(always)]
const fn checksum(sum: u32) -> [u8; 2] {
    (!csum::fold(sum)).to_ne_bytes()
}

/// Sum of all 16-bit words.
#[inline(always)]
const fn halves([a, b, c, d, e, f, g]: [u32; 7]) -> u32 {
    const fn of(w: u32) -> u32 {
        (w & 0xffff) + (w >> 16)
    }
    of(a) + of(b) + of(c) + of(d) + of(e) + of(f) + of(g)
}

#[cfg(test)]
mod tests {
    use etherparse::icmpv4::DestUnreachableHeader;
    use etherparse::{
        Icmpv4Type, IpNumber, Ipv4Header, NetHeaders, PacketHeaders, TransportHeader,
    };
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn inner(ttl: u8, len: u16) -> Ip {
        let header = Ipv4Header::new(
            len - 20,
            ttl,
            IpNumber::TCP,
            [10, 244, 1, 5],
            [10, 244, 2, 7],
        );
        let mut header = header.unwrap();
        header.header_checksum = header.calc_header_checksum();
        bytemuck::pod_read_unaligned(&header.to_bytes())
    }

    proptest! {
        /// Against a library that is not ours: every field, and the header checksum.
        #[test]
        fn filled_template_parses_back(
            local: Ipv4, remote: Ipv4, port: u16, front: [u8; 12], id: [u8; 2], inner_len in 12u16..=65_507,
        ) {
            let mut header = [0u8; 20];
            header[..12].copy_from_slice(&front);
            let varying = Varying { remote, inner: bytemuck::cast(header), id, inner_len };
            let filled = fill(&template(local, port), &varying).unwrap();
            let mut packet = bytemuck::bytes_of(&filled).to_vec();
            prop_assert_eq!(&packet[28..], front);
            packet.resize(28 + usize::from(inner_len), 0);
            let outer = bytemuck::pod_read_unaligned(&packet[..28]);
            prop_assert_eq!(check(&outer, packet.len().try_into().unwrap()), Ok(()));

            let parsed = PacketHeaders::from_ip_slice(&packet).unwrap();
            let Some(NetHeaders::Ipv4(ip, _)) = parsed.net else { panic!("not IPv4") };
            prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            prop_assert_eq!((ip.source, ip.destination), (local, remote));
            prop_assert_eq!((ip.time_to_live, ip.dont_fragment), (64, false));
            prop_assert_eq!((ip.dscp.value(), ip.ecn.value()), (0, 0));
            prop_assert_eq!(ip.identification, u16::from_be_bytes(id));
            prop_assert_eq!(ip.total_len, inner_len + 28);
            let Some(TransportHeader::Udp(udp)) = parsed.transport else { panic!("not UDP") };
            prop_assert_eq!((udp.source_port, udp.destination_port), (port, port));
            prop_assert_eq!((udp.length, udp.checksum), (inner_len + 8, 0));
        }
    }

    #[test]
    fn refuses_what_does_not_fit_a_datagram() {
        let filled = |inner_len| {
            let varying = Varying {
                remote: [0; 4],
                inner: Ip::zeroed(),
                id: [0; 2],
                inner_len,
            };
            fill(&template([0; 4], 0), &varying)
        };
        assert!(filled(65_507).is_some());
        assert!(filled(65_508).is_none());
    }

    #[rstest]
    #[case::as_sent(128, 108, 128, 100, Ok(()))]
    #[case::padded_by_ethernet(128, 108, 140, 100, Ok(()))]
    #[case::something_behind(128, 108, 128, 90, Ok(()))]
    #[case::cut_off(128, 108, 127, 100, Err(Reason::Truncated))]
    #[case::another_udp_length(128, 107, 128, 100, Err(Reason::LengthMismatch))]
    #[case::a_longer_packet_inside(128, 108, 128, 101, Err(Reason::LengthMismatch))]
    fn lengths_have_to_agree(
        #[case] total: u16,
        #[case] udp: u16,
        #[case] packet: u32,
        #[case] within: u16,
        #[case] outcome: Result<(), Reason>,
    ) {
        let mut outer = Outer::zeroed();
        outer.ip.total_len = total.to_be_bytes();
        outer.udp.len = udp.to_be_bytes();
        let found = check(&outer, packet).and_then(|()| check_inner(&outer, &inner(64, within)));
        assert_eq!(found, outcome);
    }

    #[rstest]
    #[case(64, Ok(63))]
    #[case(2, Ok(1))]
    #[case(1, Err(Reason::TtlExpired))]
    #[case(0, Err(Reason::TtlExpired))]
    fn a_hop_costs_one_and_the_last_ends_it(#[case] ttl: u8, #[case] left: Result<u8, Reason>) {
        let next = hop(&inner(ttl, 40));
        assert_eq!(next.map(|ip| ip.ttl), left);
        if let Ok(ip) = next {
            let header = Ipv4Header::from_slice(bytemuck::bytes_of(&ip)).unwrap().0;
            assert_eq!(header.header_checksum, header.calc_header_checksum());
        }
    }

    proptest! {
        /// Against a library that is not ours.
        #[test]
        fn an_answer_parses_back(from: Ipv4, src: Ipv4, dst: Ipv4, data: [u8; 8], id: [u8; 2]) {
            let about = Quoted { ip: Ip { src, dst, id, ..inner(63, 40) }, data };
            let answer = net_unreachable(from, &about).unwrap();
            let packet = [bytemuck::bytes_of(&answer), bytemuck::bytes_of(&about)].concat();

            let parsed = PacketHeaders::from_ip_slice(&packet).unwrap();
            let Some(NetHeaders::Ipv4(ip, _)) = parsed.net else { panic!("not IPv4") };
            prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            prop_assert_eq!((ip.source, ip.destination, ip.time_to_live), (from, src, 8));
            prop_assert_eq!(usize::from(ip.total_len), packet.len());
            let Some(TransportHeader::Icmpv4(icmp)) = parsed.transport else { panic!("not ICMP") };
            prop_assert_eq!(&icmp.icmp_type, &NETWORK);
            prop_assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(&packet[28..]));
        }
    }

    const NETWORK: Icmpv4Type = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Network);

    #[rstest]
    #[case::of_tcp(inner(63, 40), true)]
    #[case::of_a_first_fragment(Ip { fragment: [0x20, 0], ..inner(63, 40) }, true)]
    #[case::of_a_later_one(Ip { fragment: [0, 185], ..inner(63, 40) }, false)]
    #[case::of_icmp(Ip { proto: PROTO_ICMP, ..inner(63, 40) }, false)]
    fn not_everything_is_answered(#[case] ip: Ip, #[case] is: bool) {
        let about = Quoted { ip, data: [0; 8] };
        assert_eq!(net_unreachable([10, 244, 1, 0], &about).is_some(), is);
    }
}
