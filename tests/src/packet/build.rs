//! Packets as bytes, built by a library that is not ours.

use etherparse::PacketBuilder;
use flannel_common::header::Eth;
use flannel_common::{Ipv4, Mac, csum};

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
    /// From the server to the client.
    pub reply: bool,
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
            reply: false,
        }
    }

    /// As a pod sends it to its gateway.
    pub fn from_pod() -> Self {
        Self {
            src_mac: Self::POD_MAC,
            dst_mac: Self::GATEWAY_MAC,
            ttl: 64,
            ..Self::outbound()
        }
    }

    /// As the bridge sends it to the pod.
    pub fn to_pod() -> Self {
        Self {
            src_mac: Self::GATEWAY_MAC,
            dst_mac: Self::POD_MAC,
            ttl: 62,
            ..Self::inbound()
        }
    }

    pub const POD_MAC: Mac = [0x0a, 0, 0, 0, 0, 5];
    pub const GATEWAY_MAC: Mac = [0x0a, 0, 0, 0, 0, 1];

    /// As the peer sends it to us.
    pub fn inbound() -> Self {
        Self {
            src_mac: Node::PEER_MAC,
            dst_mac: Node::default().vtep_mac,
            src: [10, 244, 2, 7],
            dst: [10, 244, 1, 5],
            reply: true,
            ..Self::outbound()
        }
    }

    pub fn udp(&self) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(self.src_mac, self.dst_mac).ip(self.ip());
        let payload = self.payload();
        let (from, to) = self.ports(53);
        let builder = builder.udp(from, to);
        let mut packet = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut packet, &payload).unwrap();
        packet
    }

    pub fn tcp(&self) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(self.src_mac, self.dst_mac).ip(self.ip());
        let payload = self.payload();
        let (from, to) = self.ports(80);
        let builder = builder.tcp(from, to, 1000, 65_000).ack(77);
        let mut packet = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut packet, &payload).unwrap();
        packet
    }

    /// [`Self::tcp`] with other flags (`FIN` 1, `SYN` 2, `RST` 4, `ACK` 16). The TCP checksum is not mended:
    /// no program reads it.
    pub fn tcp_with(&self, flags: u8) -> Vec<u8> {
        let mut packet = self.tcp();
        packet[Eth::LEN + 20 + 13] = flags;
        packet
    }

    fn payload(&self) -> Vec<u8> {
        (0..self.payload).map(|i| i.to_le_bytes()[0]).collect()
    }

    /// Source and destination.
    const fn ports(&self, server: u16) -> (u16, u16) {
        let client = 40_000;
        match self.reply {
            true => (server, client),
            false => (client, server),
        }
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

/// A plain frame as the stack forwards it: one hop older. One that is too short for a header stays as it is.
pub fn forwarded(mut packet: Vec<u8>) -> Vec<u8> {
    let ip = Eth::LEN;
    if let Some(header) = packet.get_mut(ip..ip + 20) {
        header[8] = header[8].wrapping_sub(1);
        let header = <&[u8; 20]>::try_from(&*header).expect("20 bytes");
        let check = csum::ipv4_header(header);
        packet[ip + 10..ip + 12].copy_from_slice(&check);
    }
    packet
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

/// Where the headers are in a packet made by [`vxlan`].
pub mod at {
    pub const OUTER_IP: usize = 14;
    pub const OUTER_UDP: usize = 34;
    pub const VXLAN: usize = 42;
    pub const INNER_ETH: usize = 50;
    pub const INNER_IP: usize = 64;
}

/// `packet` with other bytes from `at` on.
pub fn patched(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    packet
}

/// [`outer`] around a VXLAN header with our VNI and `frame`.
pub fn vxlan(frame: &[u8]) -> Vec<u8> {
    assert!(frame.len() >= Eth::LEN, "a frame has an Ethernet header");
    let mut payload = vec![0x08, 0, 0, 0, 0, 0, 1, 0];
    payload.extend_from_slice(frame);
    outer(&payload)
}
