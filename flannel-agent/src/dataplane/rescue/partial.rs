//! Inner packets whose checksum nobody finished: between virtual devices (veth, virtio) the kernel leaves that to
//! whoever puts a packet on a wire (`CHECKSUM_PARTIAL`), and a socket gets its bytes as they are. The kernel's vxlan
//! device hands the note on with the packet; here it has to be read off the bytes.

use flannel_common::csum;
use flannel_common::header::Ip;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where the checksum is in the header.
const TCP_CHECK: usize = 16;
const UDP_CHECK: usize = 6;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
/// More fragments, or not the first one: there is no whole segment to sum up.
const FRAGMENT: u16 = 0x3fff;

/// Where a checksum has to be finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unfinished {
    protocol: u8,
    /// Where TCP or UDP begin.
    pub(super) start: usize,
    end: usize,
    /// Of the checksum, from `start`.
    pub(super) offset: usize,
}

impl Unfinished {
    /// `packet` is a checked IPv4 packet. `None` for a checksum that is right, wrong, or not there.
    pub(super) fn find(packet: &[u8]) -> Option<Self> {
        let ip: Ip = bytemuck::pod_read_unaligned(packet.get(..Ip::LEN)?);
        if u16::from_be_bytes(ip.fragment) & FRAGMENT != 0 {
            return None;
        }
        let start = usize::from(ip.version_ihl & 0xf) * 4;
        let segment = packet.get(start..)?;
        let (header, offset) = match ip.proto {
            TCP => (TCP_HEADER, TCP_CHECK),
            UDP => (UDP_HEADER, UDP_CHECK),
            _ => return None,
        };
        let len = match ip.proto {
            UDP => usize::from(word(segment, 4)?),
            _ => segment.len(),
        };
        let segment = segment.get(..len).filter(|_| len >= header)?;
        let check = word(segment, offset)?;
        if ip.proto == UDP && check == 0 {
            return None;
        }
        let pseudo = pseudo(&ip, len);
        let is_right = csum::fold(u32::from(csum::fold(pseudo)) + sum(segment)) == u16::MAX;
        // The kernel leaves the sum of the pseudo-header, not complemented, so that the sum of the whole is the checksum.
        (!is_right && check == csum::fold(pseudo)).then_some(Self {
            protocol: ip.proto,
            start,
            end: start + len,
            offset,
        })
    }

    /// Writes the checksum that the wire would have got.
    pub(super) fn finish(self, packet: &mut [u8]) {
        let Some(segment) = packet.get_mut(self.start..self.end) else {
            return;
        };
        let check = match (!csum::fold(sum(segment)), self.protocol) {
            // RFC 768: zero would say that there is none.
            (0, UDP) => u16::MAX,
            (check, _) => check,
        };
        if let Some(field) = segment.get_mut(self.offset..self.offset + 2) {
            field.copy_from_slice(&check.to_be_bytes());
        }
    }

    /// Bytes of IPv4 and TCP header, if it is TCP: such a packet may be longer than any MTU, since its sender left
    /// cutting it up to the device as well (TSO).
    pub(super) fn tcp_headers(self, packet: &[u8]) -> Option<usize> {
        let words = packet.get(self.start + 12).map(|byte| byte >> 4)?;
        let headers = self.start + usize::from(words) * 4;
        (self.protocol == TCP && headers >= self.start + TCP_HEADER && headers < self.end)
            .then_some(headers)
    }
}

/// RFC 9293, section 3.1; not folded.
fn pseudo(ip: &Ip, len: usize) -> u32 {
    // An IPv4 packet is no longer than 65535 bytes.
    let len = u32::try_from(len).unwrap_or_default();
    sum(&ip.src) + sum(&ip.dst) + u32::from(ip.proto) + len
}

/// Of the 16-bit words; an odd byte counts as the upper half of one. At most 32768 words: no overflow.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|word| {
        u32::from(u16::from_be_bytes([
            word[0],
            word.get(1).copied().unwrap_or(0),
        ]))
    });
    words.sum()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*word))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    const HEADER: usize = Ip::LEN;

    /// With right checksums; `len` bytes of data.
    fn packet(protocol: u8, len: usize) -> Vec<u8> {
        let builder = PacketBuilder::ipv4([10, 244, 2, 5], [10, 244, 1, 5], 63);
        let data: Vec<u8> = (0..len).map(|n| n.to_le_bytes()[0]).collect();
        let mut packet = Vec::new();
        match protocol {
            TCP => builder.tcp(1000, 2000, 7, 100).write(&mut packet, &data),
            _ => builder.udp(1000, 2000).write(&mut packet, &data),
        }
        .unwrap();
        packet
    }

    fn check_at(protocol: u8) -> usize {
        HEADER
            + if protocol == TCP {
                TCP_CHECK
            } else {
                UDP_CHECK
            }
    }

    /// As the kernel leaves it to the device.
    fn unfinished(protocol: u8, len: usize) -> Vec<u8> {
        let mut packet = packet(protocol, len);
        let ip = bytemuck::pod_read_unaligned(&packet[..HEADER]);
        let check = csum::fold(pseudo(&ip, packet.len() - HEADER));
        let at = check_at(protocol);
        packet[at..at + 2].copy_from_slice(&check.to_be_bytes());
        packet
    }

    fn finished(mut packet: Vec<u8>) -> Vec<u8> {
        if let Some(unfinished) = Unfinished::find(&packet) {
            unfinished.finish(&mut packet);
        }
        packet
    }

    proptest! {
        #[test]
        fn finished_it_is_what_the_wire_would_have_got(
            protocol in prop::sample::select(vec![TCP, UDP]),
            len in 0usize..3000,
        ) {
            prop_assert_eq!(finished(unfinished(protocol, len)), packet(protocol, len));
        }

        #[test]
        fn what_is_right_is_left_alone(
            protocol in prop::sample::select(vec![TCP, UDP]),
            len in 0usize..3000,
        ) {
            prop_assert_eq!(Unfinished::find(&packet(protocol, len)), None);
        }

        #[test]
        fn what_is_broken_stays_broken(
            protocol in prop::sample::select(vec![TCP, UDP]),
            len in 1usize..3000,
            flip in 1u8..,
        ) {
            let mut broken = packet(protocol, len);
            *broken.last_mut().unwrap() ^= flip;
            let at = check_at(protocol);
            prop_assume!(broken[at..at + 2] != unfinished(protocol, len)[at..at + 2]);
            prop_assert_eq!(Unfinished::find(&broken), None);
        }

        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut packet = packet(TCP, 0);
            let len = bytes.len().min(packet.len());
            packet[..len].copy_from_slice(&bytes[..len]);
            if let Some(unfinished) = Unfinished::find(&packet) {
                let _ = unfinished.tcp_headers(&packet);
                unfinished.finish(&mut packet);
            }
        }
    }

    #[test]
    fn udp_without_a_checksum_stays_without() {
        let mut none = unfinished(UDP, 33);
        let at = check_at(UDP);
        none[at..at + 2].fill(0);
        assert_eq!(Unfinished::find(&none), None);
    }

    #[test]
    fn a_checksum_of_zero_is_written_as_all_ones() {
        let mut packet = unfinished(UDP, 2);
        let rest = !csum::fold(sum(&packet[HEADER..HEADER + UDP_HEADER]));
        packet[HEADER + UDP_HEADER..].copy_from_slice(&rest.to_be_bytes());
        let at = check_at(UDP);
        assert_eq!(finished(packet)[at..at + 2], [0xff, 0xff]);
    }

    #[test]
    fn fragments_are_left_alone() {
        for fragment in [0x2000u16, 0x2064, 0x0064] {
            let mut packet = unfinished(UDP, 100);
            packet[6..8].copy_from_slice(&fragment.to_be_bytes());
            assert_eq!(Unfinished::find(&packet), None, "{fragment:#x}");
        }
        let mut whole = unfinished(UDP, 100);
        whole[6..8].copy_from_slice(&0x4000u16.to_be_bytes());
        assert!(
            Unfinished::find(&whole).is_some(),
            "DF alone is no fragment"
        );
    }

    #[test]
    fn cut_off_at_each_length_it_is_left_alone() {
        for protocol in [TCP, UDP] {
            let packet = unfinished(protocol, 30);
            for len in 0..packet.len() {
                assert_eq!(Unfinished::find(&packet[..len]), None, "{len}");
            }
        }
    }

    #[test]
    fn only_tcp_with_data_is_cut_up() {
        let headers = |packet: &[u8]| Unfinished::find(packet).unwrap().tcp_headers(packet);
        assert_eq!(headers(&unfinished(TCP, 60_000)), Some(40));
        assert_eq!(headers(&unfinished(TCP, 0)), None);
        assert_eq!(headers(&unfinished(UDP, 3000)), None);
    }
}
