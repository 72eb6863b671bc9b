//! A tunnel packet behind its UDP header: the checks of `uplink_rx`, on a slice.

use flannel_common::header::{ETHERTYPE_IPV4, Eth, Ip};
use flannel_common::reason::Reason;
use flannel_common::vxlan::Vxlan;
use flannel_common::{Mac, ecn, udp};

use crate::flannel::backend::Wire;

const VXLAN: usize = size_of::<Vxlan>();

/// A checked inner frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    pub wire: Wire,
    /// Zero where it is in no Ethernet frame.
    pub src_mac: Mac,
    pub ip: Ip,
    vxlan: Option<Vxlan>,
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
        let (ip, packet) = inner(packet)?;
        let vni = u32::from_be_bytes(vxlan.vni) >> 8;
        Ok(Self {
            wire: Wire::Vxlan { vni },
            src_mac: eth.src,
            ip,
            vxlan: Some(vxlan),
            packet,
        })
    }

    /// The same where there is nothing but the packet: of the backends udp and ipip.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn bare(wire: Wire, payload: &'a [u8]) -> Result<Self, Reason> {
        let (ip, packet) = inner(payload)?;
        Ok(Self {
            wire,
            src_mac: [0; 6],
            ip,
            vxlan: None,
            packet,
        })
    }

    /// netfilter's mark with which it goes on, as flags and reserved bits tell it.
    ///
    /// # Errors
    /// [`Reason::BadVxlanFlags`], by whether the network has GBP.
    pub fn mark(&self, gbp: bool) -> Result<u32, Reason> {
        // That of the outer packet nobody tells a socket.
        let mark = self.vxlan.map(|vxlan| vxlan.mark(gbp)).transpose()?;
        Ok(mark.flatten().unwrap_or_default())
    }

    /// The inner packet as it goes on, with the outer congestion mark merged in.
    ///
    /// # Errors
    /// [`Reason::EcnCe`], by RFC 6040; [`Reason::TtlExpired`] where the tunnel is a hop.
    pub fn decapsulate(&self, outer_tos: u8) -> Result<Vec<u8>, Reason> {
        let ip = match self.wire {
            Wire::Vxlan { .. } | Wire::Ipip => self.merge(outer_tos)?,
            // Whose peers let nobody mark.
            Wire::Udp => udp::hop(&self.ip)?,
        };
        let mut packet = self.packet.to_vec();
        packet[..Ip::FRONT].copy_from_slice(&ip.front());
        Ok(packet)
    }
}

impl Frame<'_> {
    fn merge(&self, outer_tos: u8) -> Result<Ip, Reason> {
        let mut ip = self.ip;
        match ecn::decapsulate(outer_tos, ip.tos) {
            ecn::Decap::Keep => {}
            ecn::Decap::Drop => return Err(Reason::EcnCe),
            ecn::Decap::Set(bits) => ecn::set(&mut ip, bits),
        }
        Ok(ip)
    }
}

/// A packet's header, and the packet without what follows it.
fn inner(bytes: &[u8]) -> Result<(Ip, &[u8]), Reason> {
    let (ip, _) = split::<Ip>(bytes, Ip::LEN)?;
    if !ip.is_ipv4() {
        return Err(Reason::NotIpv4);
    }
    let header = usize::from(ip.version_ihl & 0xf) * 4;
    let total = usize::from(ip.total_len());
    if total < header {
        return Err(Reason::LengthMismatch);
    }
    Ok((ip, bytes.get(..total).ok_or(Reason::Truncated)?))
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
        assert_eq!(frame.wire, Wire::Vxlan { vni: 1 });
        assert_eq!(frame.src_mac, [2, 0, 0, 0, 0, 2]);
        assert_eq!(frame.decapsulate(0).unwrap(), plain);
    }

    #[test]
    fn a_bare_packet_is_a_hop_older() {
        let plain = &payload(100)[22..];
        let frame = Frame::bare(Wire::Udp, plain).unwrap();
        assert_eq!((frame.wire, frame.src_mac), (Wire::Udp, [0; 6]));
        assert_eq!(frame.mark(false), Ok(0));
        let packet = frame.decapsulate(0).unwrap();
        let (header, rest) = Ipv4Header::from_slice(&packet).unwrap();
        assert_eq!(header.time_to_live, 62);
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        assert_eq!(rest, &plain[20..]);
        for len in 0..plain.len() {
            assert_eq!(
                Frame::bare(Wire::Udp, &plain[..len]),
                Err(Reason::Truncated),
                "{len}"
            );
        }
        let mut last = plain.to_vec();
        last[8] = 1;
        let frame = Frame::bare(Wire::Udp, &last).unwrap();
        assert_eq!(frame.decapsulate(0), Err(Reason::TtlExpired));
        // In IPv4 it is no hop.
        let frame = Frame::bare(Wire::Ipip, plain).unwrap();
        assert_eq!(frame.decapsulate(0).unwrap(), plain);
        assert_eq!(frame.decapsulate(0b11), Err(Reason::EcnCe));
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
