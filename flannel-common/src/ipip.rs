//! IPv4 in IPv4 (RFC 2003) as the kernel device of flannel's ipip backend writes it: time to live and "don't fragment" are the inner
//! packet's, and of its TOS byte the congestion mark alone.

use bytemuck::Zeroable;

use crate::header::{Ip, PROTO_IPIP, VERSION_IHL};
use crate::reason::Reason;
use crate::source::CHECK_OFF;
use crate::vxlan::{Template, words};
use crate::{Ipv4, csum, ecn};

/// What encapsulation puts in front of the inner IPv4 header: another.
pub const OVERHEAD: u16 = 20;
const _: () = assert!(Ip::LEN == OVERHEAD as usize);

/// "Don't fragment" in the first byte of flags and offset.
const DF: u8 = 0x40;

/// What differs from packet to packet.
#[derive(Debug, Clone, Copy)]
pub struct Varying {
    pub remote: Ipv4,
    /// The inner header as it is to leave.
    pub inner: Ip,
    /// IPv4 identification.
    pub id: [u8; 2],
    /// Total length of the inner packet. For GSO packets the length is rewritten per segment.
    pub inner_len: u16,
}

/// The header of a node at `local`, for [`fill`].
pub fn template(local: Ipv4) -> Template {
    let outer = Ip {
        version_ihl: VERSION_IHL,
        proto: PROTO_IPIP,
        src: local,
        ..Ip::zeroed()
    };
    let mut bytes = [0u8; size_of::<Template>()];
    bytes[..Ip::LEN].copy_from_slice(bytemuck::bytes_of(&outer));
    Template(bytemuck::cast(bytes))
}

/// Bytes of [`fill`]: the outer header, then [`Ip::front`] of the inner packet.
pub const OUTER_BYTES: usize = Ip::LEN + Ip::FRONT;
const _: () = assert!(OUTER_BYTES == size_of::<[u64; 4]>());

/// The header and the front of the inner one, as words. `None` if the result would pass 65,535 bytes.
#[inline(always)]
pub fn fill(Template(template): &Template, v: &Varying) -> Option<[u64; 4]> {
    let len = v.inner_len.checked_add(OVERHEAD)?;
    let remote = u64::from(u32::from_ne_bytes(v.remote));
    let [f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11] = v.inner.front();
    let [flags, _] = v.inner.fragment;

    let [w0, w1, w2, ..] = *template;
    let mut w = [w0, w1, w2 | remote, 0];
    w[0] |= u64::from(ecn::encapsulate(v.inner.tos)) << 8
        | u64::from(len.to_be()) << 16
        | u64::from(u16::from_ne_bytes(v.id)) << 32
        | u64::from(flags & DF) << 48;
    w[1] |= u64::from(v.inner.ttl);
    w[2] |= u64::from(u32::from_ne_bytes([f0, f1, f2, f3])) << 32;
    w[3] = u64::from_ne_bytes([f4, f5, f6, f7, f8, f9, f10, f11]);
    let sum = words(w[0]) + words(w[1]) + words(remote);
    w[1] |= u64::from(!csum::fold(sum)) << 16;
    Some(w)
}

/// Checks an option-less, unfragmented outer header, and the inner one against the room that it leaves; `packet_len` is the length
/// from the outer header on.
///
/// # Errors
/// The reason why it is left to the stack.
#[inline(always)]
pub const fn check(outer: &Ip, inner: &Ip, packet_len: u32) -> Result<(), Reason> {
    let total = outer.total_len();
    if total as u32 > packet_len {
        return Err(Reason::Truncated);
    }
    inner.check_within(total.saturating_sub(OVERHEAD))
}

/// Whether a packet of the protocol is this network's. Others may have some as well, a tunnel of the operator's between the same nodes
/// among them; what is ours comes from a peer, and is for our pods or from that peer's. Whether it may, is asked later.
///
/// `is_known`: its outer source is a peer's address. `check`: a value of [`crate::globals::SOURCE_CHECK`]. `is_its_own`: its inner
/// source is of that peer's lease.
#[inline(always)]
pub fn is_ours(
    is_known: bool,
    is_for_pods: bool,
    check: u8,
    is_its_own: impl FnOnce() -> bool,
) -> bool {
    match is_known {
        true => is_for_pods || is_its_own(),
        // As flannel takes it.
        false => is_for_pods && check == CHECK_OFF,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetHeaders, PacketHeaders};
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn filled(local: Ipv4, remote: Ipv4, inner: Ip, id: [u8; 2], inner_len: u16) -> Vec<u8> {
        let varying = Varying {
            remote,
            inner,
            id,
            inner_len,
        };
        let words = fill(&template(local), &varying).unwrap();
        bytemuck::bytes_of(&words).to_vec()
    }

    proptest! {
        /// Against a library that is not ours: every field, and the header checksum.
        #[test]
        fn filled_template_parses_back(
            local: Ipv4, remote: Ipv4, front: [u8; 12], id: [u8; 2], inner_len in 12u16..=65_515,
        ) {
            let mut header = [0u8; 20];
            header[..12].copy_from_slice(&front);
            let inner: Ip = bytemuck::cast(header);
            let mut packet = filled(local, remote, inner, id, inner_len);
            prop_assert_eq!(&packet[20..], front);
            packet.resize(20 + usize::from(inner_len), 0);

            let parsed = PacketHeaders::from_ip_slice(&packet).unwrap();
            let Some(NetHeaders::Ipv4(ip, _)) = parsed.net else { panic!("not IPv4") };
            prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            prop_assert_eq!((ip.source, ip.destination), (local, remote));
            prop_assert_eq!((ip.time_to_live, ip.protocol.0), (inner.ttl, 4));
            prop_assert_eq!(ip.dont_fragment, front[6] & 0x40 != 0);
            prop_assert_eq!((ip.more_fragments, ip.fragment_offset.value()), (false, 0));
            prop_assert_eq!((ip.dscp.value(), ip.ecn.value()), (0, ecn::encapsulate(inner.tos)));
            prop_assert_eq!(ip.identification, u16::from_be_bytes(id));
            prop_assert_eq!(ip.total_len, inner_len + 20);
        }
    }

    #[test]
    fn refuses_what_does_not_fit_a_packet() {
        let varying = |inner_len| Varying {
            remote: [0; 4],
            inner: Ip::zeroed(),
            id: [0; 2],
            inner_len,
        };
        let fits = |inner_len| fill(&template([0; 4]), &varying(inner_len)).is_some();
        assert!(fits(65_515) && !fits(65_516));
    }

    #[rstest]
    #[case::as_sent(120, 120, 100, Ok(()))]
    #[case::padded_by_ethernet(120, 126, 100, Ok(()))]
    #[case::something_behind(120, 120, 90, Ok(()))]
    #[case::cut_off(120, 119, 100, Err(Reason::Truncated))]
    #[case::a_longer_packet_inside(120, 120, 101, Err(Reason::LengthMismatch))]
    #[case::nothing_inside(10, 120, 20, Err(Reason::LengthMismatch))]
    fn lengths_have_to_agree(
        #[case] total: u16,
        #[case] packet: u32,
        #[case] within: u16,
        #[case] outcome: Result<(), Reason>,
    ) {
        let header = |len: u16| Ip {
            version_ihl: VERSION_IHL,
            total_len: len.to_be_bytes(),
            ..Ip::zeroed()
        };
        assert_eq!(check(&header(total), &header(within), packet), outcome);
    }
}
