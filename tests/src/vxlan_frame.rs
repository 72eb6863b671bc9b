//! An encapsulated packet as captured on an uplink, cut at the headers' borders.

use std::net::Ipv4Addr;

/// An Ethernet frame with VXLAN over IPv4 without options in it.
#[derive(Debug, Clone)]
pub struct Frame {
    pub outer_ip: [u8; 20],
    pub udp: [u8; 8],
    pub vxlan: [u8; 8],
    pub inner_eth: [u8; 14],
    pub inner: Vec<u8>,
}

impl Frame {
    /// # Panics
    /// If it is shorter than its headers.
    pub fn new(frame: &[u8]) -> Self {
        fn cut<const N: usize>(frame: &[u8], at: usize) -> [u8; N] {
            frame[at..at + N].try_into().expect("long enough")
        }
        Self {
            outer_ip: cut(frame, 14),
            udp: cut(frame, 34),
            vxlan: cut(frame, 42),
            inner_eth: cut(frame, 50),
            inner: frame[64..].to_vec(),
        }
    }

    pub fn source(&self) -> Ipv4Addr {
        let [.., a, b, c, d, _, _, _, _] = self.outer_ip;
        Ipv4Addr::new(a, b, c, d)
    }

    pub fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.udp[0], self.udp[1]])
    }

    /// The outer IPv4 header without what must differ: identification, checksum, addresses.
    pub fn comparable_ip(&self) -> (&[u8], &[u8]) {
        (&self.outer_ip[..4], &self.outer_ip[6..10])
    }
}
