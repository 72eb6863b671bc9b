//! Packets as bytes, built by a library that is not ours.

use etherparse::PacketBuilder;
use flannel_common::header::Eth;
use flannel_common::{Ipv4, Mac};

use super::Node;

/// An inner frame; defaults to a small UDP datagram between two pods on different nodes.
#[derive(Debug, Clone)]
pub struct Inner {
    pub src_mac: Mac,
    pub dst_mac: Mac,
    pub src: Ipv4,
    pub dst: Ipv4,
    pub tos: u8,
    pub ttl: u8,
    pub payload: usize,
}

impl Inner {
    /// As the stack hands it to `flannel.<VNI>`: both MACs are the device's own.
    pub fn outbound() -> Self {
        Self {
            src_mac: Node::default().vtep_mac,
            dst_mac: Node::default().vtep_mac,
            src: [10, 244, 1, 5],
            dst: [10, 244, 2, 7],
            tos: 0,
            ttl: 63,
            payload: 32,
        }
    }

    /// As the peer sends it to us.
    pub fn inbound() -> Self {
        Self {
            src_mac: Node::PEER_MAC,
            dst_mac: Node::default().vtep_mac,
            src: [10, 244, 2, 7],
            dst: [10, 244, 1, 5],
            ..Self::outbound()
        }
    }

    pub fn udp(&self) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(self.src_mac, self.dst_mac).ip(self.ip());
        let payload: Vec<u8> = (0..self.payload).map(|i| i.to_le_bytes()[0]).collect();
        let builder = builder.udp(40_000, 53);
        let mut packet = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut packet, &payload).unwrap();
        packet
    }

    pub fn tcp(&self) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(self.src_mac, self.dst_mac).ip(self.ip());
        let payload: Vec<u8> = (0..self.payload).map(|i| i.to_le_bytes()[0]).collect();
        let builder = builder.tcp(40_000, 80, 1000, 65_000).ack(77);
        let mut packet = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut packet, &payload).unwrap();
        packet
    }

    fn ip(&self) -> etherparse::IpHeaders {
        let mut header =
            etherparse::Ipv4Header::new(0, self.ttl, etherparse::IpNumber::UDP, self.src, self.dst)
                .unwrap();
        header.dscp = (self.tos >> 2).try_into().unwrap();
        header.ecn = (self.tos & 3).try_into().unwrap();
        etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
    }
}

/// An outer packet to our node as the peer's kernel would send it, around `payload` (VXLAN header and frame).
/// The destination MAC is the loopback device's, which a test run takes for the receiving device.
pub fn outer(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 9, 9], [0; 6])
        .ipv4(Node::PEER_IP, Node::default().uplink_ip, 64)
        .udp(45_678, Node::default().port);
    let mut packet = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut packet, payload).unwrap();
    packet
}

/// [`outer`] around a VXLAN header with our VNI and `frame`.
pub fn vxlan(frame: &[u8]) -> Vec<u8> {
    assert!(frame.len() >= Eth::LEN, "a frame has an Ethernet header");
    let mut payload = vec![0x08, 0, 0, 0, 0, 0, 1, 0];
    payload.extend_from_slice(frame);
    outer(&payload)
}
