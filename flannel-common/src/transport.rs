//! TCP and UDP as far as the fast path reads them.

use crate::header::{Eth, Ip, PROTO_TCP, PROTO_UDP, VERSION_IHL};
use crate::reason::Reason;

/// The first sixteen bytes behind the IPv4 header: ports, and a TCP header as far as the fast path reads it.
pub type L4 = [u8; 16];

/// Where in [`L4`] data offset and flags of a TCP header lie.
const TCP_TAIL: usize = 12;
/// Data offset and flags of a TCP header.
pub type TcpTail = [u8; 2];
/// The shortest TCP header, in words of four bytes as the data offset counts them.
const TCP_MIN_WORDS: u8 = 5;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const SYN_ACK: u8 = SYN | ACK;

/// What a TCP segment does to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Data or acknowledgement; always for UDP.
    None,
    /// The first packet of a connection.
    Open,
    /// The answer to it. Conntrack calls it established in its direction, as it will all that follow: it may prove that one.
    Answer,
    Close,
}

/// Whether a packet is of the kind that may skip the stack at all.
///
/// # Errors
/// Why not.
#[inline(always)]
pub const fn check_fast(ip: &Ip) -> Result<(), Reason> {
    if ip.version_ihl != VERSION_IHL {
        Err(Reason::InnerOptions)
    } else if ip.is_fragment() {
        Err(Reason::InnerFragment)
    } else if ip.proto != PROTO_TCP && ip.proto != PROTO_UDP {
        Err(Reason::OtherProtocol)
    } else if ip.ttl <= 1 {
        Err(Reason::TtlExpiring)
    } else {
        Ok(())
    }
}

/// The [`TcpTail`] of a TCP packet. What the packet does not have is zero in `l4`.
///
/// # Errors
/// [`Reason::Truncated`] if that cannot be a TCP header.
#[inline(always)]
pub const fn tcp(ip: &Ip, l4: &L4) -> Result<Option<TcpTail>, Reason> {
    if ip.proto != PROTO_TCP {
        return Ok(None);
    }
    let [offset, flags] = [l4[TCP_TAIL], l4[TCP_TAIL + 1]];
    if offset >> 4 < TCP_MIN_WORDS {
        return Err(Reason::Truncated);
    }
    Ok(Some([offset, flags]))
}

/// Everything but a plain acknowledged segment is for conntrack.
#[inline(always)]
pub const fn control(tcp: Option<TcpTail>) -> Control {
    // As in `check_size`: what is no TCP has the flags of a plain segment.
    let flags = match tcp {
        None => ACK,
        Some([_, flags]) => flags,
    };
    match flags & (SYN | FIN | RST | ACK) {
        ACK => Control::None,
        SYN_ACK => Control::Answer,
        flags if flags & SYN != 0 => Control::Open,
        _ => Control::Close,
    }
}

/// Whether a TCP segment answers one that opened its connection.
#[inline(always)]
#[must_use]
pub const fn is_answer(l4: &L4) -> bool {
    l4[TCP_TAIL + 1] & SYN_ACK == SYN_ACK
}

/// Length of the packet, or of each segment it stands for, from the IPv4 header on, if it fits the overlay's MTU.
///
/// # Errors
/// [`Reason::OverMtu`], or [`Reason::UdpGso`] for UDP segments, whose header length says nothing here.
#[inline(always)]
pub fn check_size(ip: &Ip, tcp: Option<TcpTail>, gso_size: u32, mtu: u32) -> Result<u32, Reason> {
    // 0 for what is not TCP, and not `None`: asked for the protocol once more, the verifier of Linux 6.1 would not know that
    // there is an offset only where it is TCP.
    let [offset, _] = tcp.unwrap_or_default();
    let len = match (gso_size, offset) {
        (0, _) => u32::from(ip.total_len()),
        (_, 0) => return Err(Reason::UdpGso),
        (size, offset) => size + 20 + u32::from(offset >> 4) * 4,
    };
    if len > mtu {
        Err(Reason::OverMtu)
    } else {
        Ok(len)
    }
}

/// [`check_size`] of what a pod sends in a frame of `frame_len` bytes, Ethernet header and all: its IPv4 header must speak of no
/// more than there is, nor of less than itself. `ip_rcv` drops other packets; sent past it they would be the peer's to drop.
/// What the frame has behind the packet, which `ip_rcv` cuts off, goes along past it, and so counts as well.
/// Of a packet that stands for many the header may say nothing (BIG TCP).
///
/// # Errors
/// [`Reason::Truncated`], and those of [`check_size`].
#[inline(always)]
pub fn check_sent(
    ip: &Ip,
    tcp: Option<TcpTail>,
    gso_size: u32,
    mtu: u32,
    frame_len: u32,
) -> Result<u32, Reason> {
    #[expect(clippy::cast_possible_truncation, reason = "14 and 20")]
    const ETH: u32 = Eth::LEN as u32;
    #[expect(clippy::cast_possible_truncation, reason = "14 and 20")]
    const IP: u32 = Ip::LEN as u32;
    if gso_size == 0 {
        let payload = u32::from(ip.total_len()).wrapping_sub(IP);
        if payload > frame_len.wrapping_sub(ETH + IP) {
            return Err(Reason::Truncated);
        }
        if frame_len.wrapping_sub(ETH) > mtu {
            return Err(Reason::OverMtu);
        }
    }
    check_size(ip, tcp, gso_size, mtu)
}

/// Whether GRO could merge the packet with another (`tcp_gro_receive`): a TCP segment that takes up room in its stream,
/// which must not overtake what GRO still holds of it either. Where the TCP header is not at hand, true.
#[inline(always)]
pub const fn may_merge(ip: &Ip, l4: &L4) -> bool {
    if ip.proto != PROTO_TCP {
        return false;
    }
    if ip.version_ihl != VERSION_IHL || ip.is_fragment() {
        return true;
    }
    let [offset, flags] = [l4[TCP_TAIL], l4[TCP_TAIL + 1]];
    let headers = Ip::LEN + (offset >> 4) as usize * 4;
    flags & SYN == 0 && (flags & (FIN | RST) != 0 || ip.total_len() as usize > headers)
}

/// Bulk transfers make TCP packets as long as that, bytes: seven eighths of the MTU.
pub const fn bulk_len(mtu: u32) -> u32 {
    mtu - mtu / 8
}

/// Whether a TCP packet is at least as long as that.
#[inline(always)]
pub fn is_full_size(ip: &Ip, bulk_len: u32) -> bool {
    ip.proto == PROTO_TCP && u32::from(ip.total_len()) >= bulk_len
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable as _;
    use rstest::rstest;

    fn ip(proto: u8) -> Ip {
        Ip {
            version_ihl: 0x45,
            ttl: 64,
            proto,
            ..Ip::zeroed()
        }
    }

    #[rstest]
    #[case::tcp(ip(6), Ok(()))]
    #[case::udp(ip(17), Ok(()))]
    #[case::icmp(ip(1), Err(Reason::OtherProtocol))]
    #[case::sctp(ip(132), Err(Reason::OtherProtocol))]
    #[case::options(Ip { version_ihl: 0x46, ..ip(6) }, Err(Reason::InnerOptions))]
    #[case::fragment(Ip { fragment: [0x20, 0], ..ip(17) }, Err(Reason::InnerFragment))]
    #[case::ttl_1(Ip { ttl: 1, ..ip(6) }, Err(Reason::TtlExpiring))]
    #[case::ttl_0(Ip { ttl: 0, ..ip(6) }, Err(Reason::TtlExpiring))]
    #[case::ttl_2(Ip { ttl: 2, ..ip(6) }, Ok(()))]
    fn kinds(#[case] ip: Ip, #[case] want: Result<(), Reason>) {
        assert_eq!(check_fast(&ip), want);
    }

    #[rstest]
    #[case::exact(100, 114, Ok(100))]
    #[case::padded(40, 60, Ok(40))]
    #[case::header_alone(20, 34, Ok(20))]
    #[case::with_as_much_behind_it_as_there_is_room(100, 1464, Ok(100))]
    #[case::with_more_behind_it(100, 1465, Err(Reason::OverMtu))]
    #[case::longer_than_the_frame(101, 114, Err(Reason::Truncated))]
    #[case::shorter_than_its_header(19, 114, Err(Reason::Truncated))]
    #[case::nothing(0, 114, Err(Reason::Truncated))]
    fn lengths(#[case] len: u16, #[case] frame: u32, #[case] want: Result<u32, Reason>) {
        let total_len = len.to_be_bytes();
        let ip = Ip {
            total_len,
            ..ip(17)
        };
        let sent = check_sent(&ip, None, 0, 1450, frame);
        assert_eq!(sent, want);
        let many = check_sent(&ip, Some([0x50, 0x10]), 1000, 1450, frame);
        assert_eq!(many, Ok(1040), "of many its header says nothing");
    }

    #[rstest]
    #[case::ack(0x10, Control::None)]
    #[case::psh_ack(0x18, Control::None)]
    #[case::ece_ack(0x50, Control::None)]
    #[case::urg_ack(0x30, Control::None)]
    #[case::syn(0x02, Control::Open)]
    #[case::syn_ack(0x12, Control::Answer)]
    #[case::syn_ack_with_ecn(0x52, Control::Answer)]
    #[case::syn_ack_fin(0x13, Control::Open)]
    #[case::syn_ack_rst(0x16, Control::Open)]
    #[case::fin_ack(0x11, Control::Close)]
    #[case::rst(0x04, Control::Close)]
    #[case::rst_ack(0x14, Control::Close)]
    #[case::nothing(0x00, Control::Close)]
    #[case::psh_without_ack(0x08, Control::Close)]
    fn segment_kinds(#[case] flags: u8, #[case] want: Control) {
        assert_eq!(control(Some([0x50, flags])), want);
    }

    #[rstest]
    #[case::udp(17, 0x45, 1000, 0x50, 0x10, false)]
    #[case::icmp(1, 0x45, 1000, 0x50, 0x10, false)]
    #[case::acknowledgement(6, 0x45, 52, 0x80, 0x10, false)]
    #[case::one_byte(6, 0x45, 53, 0x80, 0x18, true)]
    #[case::data(6, 0x45, 1450, 0x50, 0x10, true)]
    #[case::syn(6, 0x45, 60, 0xa0, 0x02, false)]
    #[case::syn_ack(6, 0x45, 60, 0xa0, 0x12, false)]
    #[case::syn_with_data(6, 0x45, 90, 0xa0, 0x02, false)]
    #[case::fin(6, 0x45, 52, 0x80, 0x11, true)]
    #[case::rst(6, 0x45, 40, 0x50, 0x04, true)]
    #[case::options(6, 0x46, 56, 0x80, 0x10, true)]
    #[case::shorter_than_its_header(6, 0x45, 30, 0xf0, 0x10, false)]
    fn what_gro_may_merge(
        #[case] proto: u8,
        #[case] version_ihl: u8,
        #[case] len: u16,
        #[case] offset: u8,
        #[case] flags: u8,
        #[case] want: bool,
    ) {
        let ip = Ip {
            version_ihl,
            total_len: len.to_be_bytes(),
            ..ip(proto)
        };
        let mut l4 = L4::default();
        l4[12..14].copy_from_slice(&[offset, flags]);
        assert_eq!(may_merge(&ip, &l4), want);
        let fragment = Ip {
            fragment: [0x20, 0],
            ..ip
        };
        assert_eq!(may_merge(&fragment, &l4), proto == 6, "flags unknown");
    }

    #[rstest]
    #[case::tcp(6, 0x50, Ok(Some([0x50, 0x10])))]
    #[case::with_options(6, 0x80, Ok(Some([0x80, 0x10])))]
    #[case::cut_off(6, 0x00, Err(Reason::Truncated))]
    #[case::too_short(6, 0x40, Err(Reason::Truncated))]
    #[case::udp(17, 0x50, Ok(None))]
    fn tails(#[case] proto: u8, #[case] offset: u8, #[case] want: Result<Option<TcpTail>, Reason>) {
        let mut l4 = L4::default();
        l4[12..14].copy_from_slice(&[offset, 0x10]);
        assert_eq!(tcp(&ip(proto), &l4), want);
    }

    #[rstest]
    #[case::fits(6, 1450, 0, Ok(1450))]
    #[case::too_long(6, 1451, 0, Err(Reason::OverMtu))]
    #[case::udp(17, 1451, 0, Err(Reason::OverMtu))]
    #[case::gso_fits(6, 60_000, 1398, Ok(1450))]
    #[case::gso_too_long(6, 60_000, 1399, Err(Reason::OverMtu))]
    #[case::udp_gso(17, 60_000, 1000, Err(Reason::UdpGso))]
    fn sizes(
        #[case] proto: u8,
        #[case] len: u16,
        #[case] gso_size: u32,
        #[case] want: Result<u32, Reason>,
    ) {
        let ip = Ip {
            total_len: len.to_be_bytes(),
            ..ip(proto)
        };
        // A header of 32 bytes: with timestamps.
        let tail = (proto == PROTO_TCP).then_some([0x80, 0x10]);
        assert_eq!(check_size(&ip, tail, gso_size, 1450), want);
    }
}
