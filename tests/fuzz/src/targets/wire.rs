//! Packets.

use flannel_agent::dataplane::rescue::frame::Frame;
use flannel_common::header::Ip;
use flannel_common::snat::{Packet, WAY_IN, WAY_OUT};
use flannel_common::transport::{self, L4};
use flannel_common::vxlan::{self, Outer};

use crate::bytes::take;

/// What passes the checks fits: the inner packet lies inside the datagram, and that inside the packet.
pub(super) fn outer_headers(mut data: &[u8]) {
    let (Some(outer), Some(inner)) = (take::<Outer>(&mut data), take::<Ip>(&mut data)) else {
        return;
    };
    let len = Outer::LEN + Ip::LEN + data.len();
    let packet_len = u32::try_from(len).unwrap_or(u32::MAX);
    let [plain, gbp] = [false, true].map(|gbp| vxlan::check(&outer, 1, packet_len, gbp));
    assert!(plain.is_err() || plain == gbp, "with GBP more is taken");
    if gbp.is_err() {
        return;
    }
    assert!(u32::from(outer.ip.total_len()) <= packet_len);
    if let Ok(inner_len) = vxlan::check_inner(&outer, &inner) {
        assert!(inner_len >= 20, "{inner:?}");
        assert!(inner_len <= outer.ip.total_len(), "{outer:?} {inner:?}");
    }
}

/// A frame that is taken comes out whole and with a header checksum as right as it was.
pub(super) fn tunnel_frame(data: &[u8]) {
    let Some((tos, payload)) = data.split_first() else {
        return;
    };
    let Ok(frame) = Frame::parse(payload) else {
        return;
    };
    if let Ok(packet) = frame.decapsulate(*tos) {
        assert_eq!(packet.len(), usize::from(frame.ip.total_len()));
        assert_eq!(sum(&packet[..20]), sum(bytemuck::bytes_of(&frame.ip)));
    }
}

/// The Internet checksum's sum, with its two zeros taken for one.
pub(super) fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for word in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match u16::try_from(sum) {
        Ok(0xffff) | Err(_) => 0,
        Ok(sum) => sum,
    }
}

/// Keys of the two ways mirror each other; sizes are decided without overflow.
pub(super) fn inner_packet(mut data: &[u8]) {
    let (Some(ip), Some(l4)) = (take::<Ip>(&mut data), take::<L4>(&mut data)) else {
        return;
    };
    let gso = take::<u16>(&mut data).unwrap_or_default();
    if transport::check_fast(&ip).is_ok() {
        assert!(ip.ttl > 1 && !ip.is_fragment());
        if let Ok(tcp) = transport::tcp(&ip, &l4) {
            let _ = transport::control(tcp);
            if transport::check_size(&ip, tcp, 0, 1450).is_ok() {
                assert!(ip.total_len() <= 1450);
            }
            let _ = transport::check_size(&ip, tcp, u32::from(gso), 1450);
        }
    }
    let [a, b, c, d, e, f, g, h, .., flags, _, _] = l4;
    let head = [a, b, c, d, e, f, g, h];
    for way in [WAY_OUT, WAY_IN] {
        if let Some(packet) = Packet::new(&ip, way, &head, flags) {
            assert_eq!(packet.key.way, way);
            assert_eq!(packet.answer().way, WAY_OUT);
            assert!(!packet.is_syn() || packet.may_open());
        }
    }
}
