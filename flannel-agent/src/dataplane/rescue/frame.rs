//! A tunnel packet behind its UDP header: the checks of `uplink_rx`, on a slice.

use flannel_common::header::{ETHERTYPE_IPV4, Eth, Ip};
use flannel_common::reason::Reason;
use flannel_common::vxlan::Vxlan;
use flannel_common::{Mac, csum, ecn};

const VXLAN: usize = size_of::<Vxlan>();

/// A checked inner frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub vni: u32,
    pub src_mac: Mac,
    pub ip: Ip,
    vxlan: Vxlan,
    /// The IPv4 packet, without what Ethernet padded.
    packet: &'a [u8],
}

impl<'a> Frame<'a> {
    /// # Errors
    /// The reason why it is not delivered.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Reason> {
        let (vxlan, rest) = split::<Vxlan>(payload, VXLAN)?;
        let (eth, packet) = split::<Eth>(rest, Eth::LEN)?;
        if eth.ethertype != ETHERTYPE_IPV4 {
            return Err(Reason::NotIpv4);
        }
        let (ip, _) = split::<Ip>(packet, Ip::LEN)?;
        if !ip.is_ipv4() {
            return Err(Reason::NotIpv4);
        }
        let header = usize::from(ip.version_ihl & 0xf) * 4;
        let total = usize::from(ip.total_len());
        if total < header {
            return Err(Reason::LengthMismatch);
        }
        Ok(Self {
            vni: u32::from_be_bytes(vxlan.vni) >> 8,
            src_mac: eth.src,
            ip,
            vxlan,
            packet: packet.get(..total).ok_or(Reason::Truncated)?,
        })
    }

    /// netfilter's mark with which it goes on, as flags and reserved bits tell it.
    ///
    /// # Errors
    /// [`Reason::BadVxlanFlags`], by whether the network has GBP.
    pub fn mark(&self, gbp: bool) -> Result<u32, Reason> {
        // That of the outer packet nobody tells a socket.
        self.vxlan.mark(gbp).map(Option::unwrap_or_default)
    }

    /// The inner packet as it goes on, with the outer congestion mark merged in.
    ///
    /// # Errors
    /// [`Reason::EcnCe`], by RFC 6040.
    pub fn decapsulate(&self, outer_tos: u8) -> Result<Vec<u8>, Reason> {
        let mut packet = self.packet.to_vec();
        let bits = match ecn::decapsulate(outer_tos, self.ip.tos) {
            ecn::Decap::Keep => return Ok(packet),
            ecn::Decap::Drop => return Err(Reason::EcnCe),
            ecn::Decap::Set(bits) => bits,
        };
        let tos = (self.ip.tos & !ecn::MASK) | bits;
        let word = |tos| [self.ip.version_ihl, tos];
        let check = csum::replace(self.ip.check, word(self.ip.tos), word(tos));
        packet[1] = tos;
        packet[10..12].copy_from_slice(&check);
        Ok(packet)
    }
}

fn split<T: bytemuck::Pod>(bytes: &[u8], len: usize) -> Result<(T, &[u8]), Reason> {
    let (head, rest) = bytes.split_at_checked(len).ok_or(Reason::Truncated)?;
    Ok((bytemuck::pod_read_unaligned(head), rest))
}

#[cfg(test)]
pub(super) mod tests {
    use etherparse::{Ipv4Header, PacketBuilder};
    use proptest::prelude::*;

    use super::*;

    /// A tunnel payload: VNI 1, UDP from 10.244.2.5 to 10.244.1.5 with `len` bytes.
    pub(in super::super) fn payload(len: usize) -> Vec<u8> {
        let mut payload = vec![0x08, 0, 0, 0, 0, 0, 1, 0];
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1])
            .ipv4([10, 244, 2, 5], [10, 244, 1, 5], 63)
            .udp(1000, 2000);
        let body: Vec<u8> = (0..len).map(|n| n.to_le_bytes()[0]).collect();
        builder.write(&mut payload, &body).unwrap();
        payload
    }

    #[test]
    fn a_good_frame_gives_its_packet_without_padding() {
        let mut bytes = payload(100);
        let plain = bytes[22..].to_vec();
        bytes.extend([0; 7]);
        let frame = Frame::parse(&bytes).unwrap();
        assert_eq!((frame.vni, frame.src_mac), (1, [2, 0, 0, 0, 0, 2]));
        assert_eq!(frame.decapsulate(0).unwrap(), plain);
    }

    #[test]
    fn cut_off_at_each_length_it_is_refused() {
        let bytes = payload(30);
        for len in 0..bytes.len() {
            assert_eq!(Frame::parse(&bytes[..len]), Err(Reason::Truncated), "{len}");
        }
    }

    #[test]
    fn what_flannel_s_kernel_device_drops_is_dropped() {
        let changed = |at: usize, value: u8| {
            let mut bytes = payload(30);
            bytes[at] = value;
            Frame::parse(&bytes)
                .and_then(|frame| frame.mark(false))
                .err()
        };
        assert_eq!(changed(0, 0x88), Some(Reason::BadVxlanFlags));
        assert_eq!(changed(0, 0x00), Some(Reason::BadVxlanFlags));
        assert_eq!(changed(7, 1), Some(Reason::BadVxlanFlags));
        assert_eq!(changed(20, 0x86), Some(Reason::NotIpv4));
        assert_eq!(changed(22, 0x65), Some(Reason::NotIpv4));
        assert_eq!(
            changed(22, 0x46),
            None,
            "options are the inner stack's business"
        );
        assert_eq!(changed(25, 10), Some(Reason::LengthMismatch));
    }

    #[test]
    fn a_mark_is_told_by_gbp_alone() {
        let mut bytes = payload(30);
        bytes[..4].copy_from_slice(&[0x88, 0, 0x12, 0x34]);
        let frame = Frame::parse(&bytes).unwrap();
        assert_eq!(frame.mark(true), Ok(0x1234));
        assert_eq!(frame.mark(false), Err(Reason::BadVxlanFlags));
        let bytes = payload(30);
        assert_eq!(Frame::parse(&bytes).unwrap().mark(true), Ok(0));
    }

    #[test]
    fn congestion_is_passed_on() {
        let mut bytes = payload(30);
        // ECT(0), with a checksum to match.
        bytes[23] = 0b10;
        let mut header = Ipv4Header::from_slice(&bytes[22..]).unwrap().0;
        header.header_checksum = header.calc_header_checksum();
        bytes[22..42].copy_from_slice(&header.to_bytes());
        let frame = Frame::parse(&bytes).unwrap();
        let packet = frame.decapsulate(0b11).unwrap();
        let header = Ipv4Header::from_slice(&packet).unwrap().0;
        assert_eq!(header.ecn.value(), 0b11);
        assert_eq!(header.header_checksum, header.calc_header_checksum());

        let bytes = payload(30);
        let not_capable = Frame::parse(&bytes).unwrap();
        assert_eq!(not_capable.decapsulate(0b11), Err(Reason::EcnCe));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(frame) = Frame::parse(&bytes) {
                let _ = frame.decapsulate(0b11);
            }
        }
    }
}
