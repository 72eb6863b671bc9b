//! Packets as a socket gets them, made into what a wire would carry: the kernel leaves checksums, and the cutting up of long TCP
//! packets, to the last device, which these never come to.

use flannel_common::header::{Ip, PROTO_TCP, PROTO_UDP};

use crate::base::checksum;

const MORE_FRAGMENTS_OR_OFFSET: u16 = 0x3fff;
const TCP_HEADER: usize = 20;
const TCP_CHECK: usize = 16;
const UDP_HEADER: usize = 8;
const UDP_CHECK: usize = 6;
const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// The packet, cut up if it is TCP that is longer than `mtu`; nothing if it makes no sense, or is longer and cannot be cut.
pub(crate) fn segments(packet: &[u8], mtu: u32) -> Vec<Vec<u8>> {
    let mtu = mtu as usize;
    let Some((header, ip, whole)) = parse(packet) else {
        return Vec::new();
    };
    let mut packet = whole.to_vec();
    let is_fragment = u16::from_be_bytes(ip.fragment) & MORE_FRAGMENTS_OR_OFFSET != 0;
    if !is_fragment {
        complete(&mut packet, header, &ip);
    }
    if packet.len() <= mtu {
        return vec![packet];
    }
    match ip.proto {
        PROTO_TCP if !is_fragment => cut(&packet, header, &ip, mtu).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// Length of the IPv4 header, its fixed part, and the packet without what may follow it.
fn parse(packet: &[u8]) -> Option<(usize, Ip, &[u8])> {
    let ip: Ip = bytemuck::pod_read_unaligned(packet.get(..Ip::LEN)?);
    let header = usize::from(ip.version_ihl & 0xf) * 4;
    let total = usize::from(ip.total_len());
    let fits = ip.version_ihl >> 4 == 4 && header >= Ip::LEN && total >= header;
    let whole = packet.get(..total)?;
    fits.then_some((header, ip, whole))
}

fn check_at(proto: u8, header: usize, len: usize) -> Option<usize> {
    let (at, least) = match proto {
        PROTO_TCP => (TCP_CHECK, TCP_HEADER),
        PROTO_UDP => (UDP_CHECK, UDP_HEADER),
        _ => return None,
    };
    (len >= header + least).then_some(header + at)
}

/// Addresses, protocol and length, as the checksum takes them in (RFC 9293 section 3.1).
fn pseudo(ip: &Ip, len: usize) -> [u8; 12] {
    let [a, b, c, d] = ip.src;
    let [e, f, g, h] = ip.dst;
    let [high, low] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    [a, b, c, d, e, f, g, h, 0, ip.proto, high, low]
}

/// A checksum that only has what the kernel puts there for a device to go on from (`CHECKSUM_PARTIAL`) is made whole. A
/// packet of which it was the real one stays as good as it was.
fn complete(packet: &mut [u8], header: usize, ip: &Ip) {
    let Some(at) = check_at(ip.proto, header, packet.len()) else {
        return;
    };
    let pseudo = pseudo(ip, packet.len() - header);
    let begun = checksum(&pseudo).map(|byte| !byte);
    if packet[at..at + 2] == begun {
        put_checksum(packet, header, at, &pseudo);
        // RFC 768: 0 would say that there is none.
        if ip.proto == PROTO_UDP && packet[at..at + 2] == [0, 0] {
            packet[at..at + 2].fill(0xff);
        }
    }
}

fn put_checksum(packet: &mut [u8], header: usize, at: usize, pseudo: &[u8]) {
    packet[at..at + 2].fill(0);
    let check = checksum(&[pseudo, &packet[header..]].concat());
    packet[at..at + 2].copy_from_slice(&check);
}

fn cut(packet: &[u8], header: usize, ip: &Ip, mtu: usize) -> Option<Vec<Vec<u8>>> {
    let offset = usize::from(packet.get(header + 12)? >> 4) * 4;
    let heads = header + offset;
    let body = packet.get(heads..)?;
    let room = mtu.checked_sub(heads).filter(|room| *room > 0)?;
    let (id, count) = (u16::from_be_bytes(ip.id), body.len().div_ceil(room));
    let first = u32::from_be_bytes(*packet.get(header + 4..)?.first_chunk()?);
    let pieces = body.chunks(room).enumerate().map(|(n, part)| {
        let mut piece = packet[..heads].to_vec();
        piece.extend_from_slice(part);
        let number = u16::try_from(n).ok()?;
        let total = u16::try_from(piece.len()).ok()?;
        let sequence = first.wrapping_add(u32::try_from(n * room).ok()?);
        piece[2..4].copy_from_slice(&total.to_be_bytes());
        piece[4..6].copy_from_slice(&id.wrapping_add(number).to_be_bytes());
        piece[10..12].fill(0);
        let check = checksum(&piece[..header]);
        piece[10..12].copy_from_slice(&check);
        piece[header + 4..header + 8].copy_from_slice(&sequence.to_be_bytes());
        if n + 1 < count {
            piece[header + 13] &= !FIN_PSH;
        }
        if n > 0 {
            piece[header + 13] &= !CWR;
        }
        let pseudo = pseudo(ip, piece.len() - header);
        put_checksum(&mut piece, header, header + TCP_CHECK, &pseudo);
        Some(piece)
    });
    pieces.collect()
}

#[cfg(test)]
mod tests {
    use etherparse::{Ipv4Header, PacketBuilder, TcpHeader};
    use proptest::prelude::*;

    use super::*;

    fn tcp(len: usize) -> Vec<u8> {
        let mut packet = Vec::new();
        let body: Vec<u8> = (0..=250).cycle().take(len).collect();
        PacketBuilder::ipv4([10, 244, 1, 5], [10, 244, 2, 5], 64)
            .tcp(1000, 2000, u32::MAX - 700, 4096)
            .ack(7)
            .psh()
            .write(&mut packet, &body)
            .unwrap();
        packet[6] |= 0x40;
        packet
    }

    fn unfinished(mut packet: Vec<u8>, at: usize) -> Vec<u8> {
        let (header, ip, _) = parse(&packet).unwrap();
        let begun = checksum(&pseudo(&ip, packet.len() - header)).map(|byte| !byte);
        packet[at..at + 2].copy_from_slice(&begun);
        packet
    }

    #[test]
    fn what_fits_stays_and_its_checksum_is_finished() {
        let packet = tcp(100);
        assert_eq!(segments(&packet, 1450), std::slice::from_ref(&packet));
        assert_eq!(segments(&unfinished(packet.clone(), 36), 1450), [packet]);
        let mut udp = Vec::new();
        PacketBuilder::ipv4([10, 244, 1, 5], [10, 244, 2, 5], 64)
            .udp(1000, 2000)
            .write(&mut udp, b"hello")
            .unwrap();
        assert_eq!(segments(&unfinished(udp.clone(), 26), 1450), [udp]);
    }

    /// To UDP a checksum of 0 means that there is none; to TCP it is one like any other, and a sender writes it as it is.
    #[test]
    fn a_checksum_of_zero_is_written_otherwise_in_udp_alone() {
        let udp = |word: u16| {
            let mut packet = Vec::new();
            PacketBuilder::ipv4([10, 244, 1, 5], [10, 244, 2, 5], 64)
                .udp(1000, 2000)
                .write(&mut packet, &word.to_be_bytes())
                .unwrap();
            packet
        };
        let zero = (0..=u16::MAX).map(udp).find(|p| p[26..28] == [0xff; 2]);
        let zero = zero.unwrap();
        assert_eq!(segments(&unfinished(zero.clone(), 26), 1450), [zero]);
        let pieces = segments(&tcp(31_116), 675);
        assert!(pieces.iter().any(|piece| piece[36..38] == [0, 0]));
        assert!(pieces.iter().all(|piece| piece[36..38] != [0xff; 2]));
    }

    #[test]
    fn what_is_long_and_no_tcp_is_not_sent() {
        let mut udp = Vec::new();
        PacketBuilder::ipv4([10, 244, 1, 5], [10, 244, 2, 5], 64)
            .udp(1000, 2000)
            .write(&mut udp, &[1; 3000])
            .unwrap();
        assert!(segments(&udp, 1450).is_empty());
    }

    proptest! {
        #[test]
        fn pieces_make_up_the_stream(len in 1411_usize..65_000, mtu in 100_u32..1500) {
            let whole = tcp(len);
            let mut body = Vec::new();
            let pieces = segments(&whole, mtu);
            let count = pieces.len();
            for (n, piece) in pieces.iter().enumerate() {
                prop_assert!(piece.len() <= mtu as usize);
                let (ip, rest) = Ipv4Header::from_slice(piece).unwrap();
                prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                prop_assert_eq!(usize::from(ip.total_len), piece.len());
                let (header, payload) = TcpHeader::from_slice(rest).unwrap();
                let check = header.calc_checksum_ipv4(&ip, payload).unwrap();
                prop_assert_eq!(header.checksum, check);
                let at = u32::try_from(body.len()).unwrap();
                prop_assert_eq!(header.sequence_number, (u32::MAX - 700).wrapping_add(at));
                prop_assert_eq!(header.psh, n + 1 == count);
                body.extend_from_slice(payload);
            }
            prop_assert_eq!(&body, &whole[40..]);
        }

        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), mtu in 0_u32..100) {
            segments(&bytes, mtu);
        }
    }
}
