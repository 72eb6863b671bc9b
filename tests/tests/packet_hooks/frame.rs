//! Frames as bytes, for those who know nothing of the code under test.

use flannel_tests::packet::Inner;

use super::path::Path;

pub(crate) const IP: usize = 14;
pub(crate) const L4: usize = 34;
const PROTO_TCP: u8 = 6;
pub(crate) const PROTO_UDP: u8 = 17;
const ECN: u8 = 3;

/// A frame with an IPv4 header of 20 bytes, and at least sixteen behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame(pub(crate) Vec<u8>);

/// Addresses, ports, protocol: of the pod on the node first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tuple {
    pub(crate) local: ([u8; 4], [u8; 2]),
    pub(crate) remote: ([u8; 4], [u8; 2]),
    pub(crate) proto: u8,
}

/// What a TCP segment is to its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    None,
    Open,
    Answer,
    Close,
}

impl Frame {
    /// One of the flow between a pod's port of ours, `local_port`, and another's.
    pub(crate) fn of(path: Path, proto: u8, local_port: u16, payload: usize) -> Self {
        let inner = Inner {
            ttl: 64,
            payload,
            ..path.before()
        };
        let mut frame = Self(match proto {
            PROTO_TCP => inner.tcp(),
            _ => inner.udp(),
        });
        let at = if path.is_out { L4 } else { L4 + 2 };
        frame.set(at, &local_port.to_be_bytes());
        frame
    }

    pub(crate) fn set(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0[at..at + N].try_into().unwrap()
    }

    pub(crate) fn tos(&self) -> u8 {
        self.0[IP + 1]
    }

    pub(crate) fn ttl(&self) -> u8 {
        self.0[IP + 8]
    }

    pub(crate) fn proto(&self) -> u8 {
        self.0[IP + 9]
    }

    pub(crate) fn dst_mac(&self) -> [u8; 6] {
        self.get(0)
    }

    /// Whether only the stack can take it, whatever the flow: options, a fragment, the last hop.
    pub(crate) fn is_odd(&self) -> bool {
        let [fragment, rest] = self.get(IP + 6);
        self.0[IP] != 0x45 || fragment & 0x3f != 0 || rest != 0 || self.ttl() <= 1
    }

    pub(crate) fn tuple(&self, is_out: bool) -> Tuple {
        let src = (self.get(IP + 12), self.get(L4));
        let dst = (self.get(IP + 16), self.get(L4 + 2));
        let (local, remote) = if is_out { (src, dst) } else { (dst, src) };
        Tuple {
            local,
            remote,
            proto: self.proto(),
        }
    }

    pub(crate) fn control(&self) -> Control {
        const FIN: u8 = 1;
        const SYN: u8 = 2;
        const RST: u8 = 4;
        const ACK: u8 = 16;
        if self.proto() != PROTO_TCP {
            return Control::None;
        }
        let flags = self.0[L4 + 13];
        let is = |flag: u8| flags & flag != 0;
        match (is(SYN), is(ACK), is(FIN) || is(RST)) {
            (true, true, false) => Control::Answer,
            (true, _, _) => Control::Open,
            (false, true, false) => Control::None,
            _ => Control::Close,
        }
    }

    /// One hop further, with another DSCP.
    pub(crate) fn hop(&self, dscp: u8) -> Self {
        let mut next = self.clone();
        next.0[IP + 1] = dscp & !ECN | self.tos() & ECN;
        next.0[IP + 8] = self.ttl().wrapping_sub(1);
        next.seal();
        next
    }

    /// Whether `after` is this packet one hop further, whatever DSCP and checksums it has by now. Of the payload the hooks see
    /// the first bytes behind the UDP header.
    pub(crate) fn is_before(&self, after: &Self) -> bool {
        let head = |frame: &Self| {
            let mut head = frame.0[IP..L4 + 16].to_vec();
            head[1] &= ECN;
            head[10..12].fill(0);
            if frame.proto() == PROTO_UDP {
                head[20 + 6..20 + 8].fill(0);
            }
            head
        };
        let mut aged = self.clone();
        aged.0[IP + 8] = self.ttl().wrapping_sub(1);
        head(&aged) == head(after)
    }

    /// Whether it is `want` from the IPv4 header on, with a checksum that is right.
    pub(crate) fn is_like(&self, want: &Self) -> bool {
        let body = |frame: &Self| {
            let mut body = frame.0[IP..].to_vec();
            body[10..12].fill(0);
            // Both are zero, in the arithmetic of checksums.
            let sum = frame.sum_at() - IP;
            if body[sum..sum + 2] == [0xff; 2] {
                body[sum..sum + 2].fill(0);
            }
            body
        };
        body(self) == body(want) && self.header_sum() == 0xffff
    }

    /// The same to another address and port, with the checksum that follows from that.
    pub(crate) fn to(&self, addr: [u8; 4], port: u16) -> Self {
        let mut other = self.clone();
        other.set(IP + 16, &addr);
        other.set(L4 + 2, &port.to_be_bytes());
        other.seal();
        let words = |frame: &Self| {
            [IP + 16, IP + 18, L4 + 2].map(|at| u32::from(u16::from_be_bytes(frame.get(at))))
        };
        let before: u32 = words(self).iter().map(|word| 0xffff - word).sum();
        let after: u32 = words(&other).iter().sum();
        let sum = u16::from_be_bytes(self.get(self.sum_at()));
        let sum = !folded(u32::from(!sum) + before + after);
        // A datagram with 0 would have none.
        let sum = if sum == 0 { 0xffff } else { sum };
        other.set(self.sum_at(), &sum.to_be_bytes());
        other
    }

    /// Where the checksum of TCP or UDP is.
    fn sum_at(&self) -> usize {
        match self.proto() {
            PROTO_TCP => L4 + 16,
            _ => L4 + 6,
        }
    }

    pub(crate) fn src(&self) -> [u8; 4] {
        self.get(IP + 12)
    }

    pub(crate) fn dst(&self) -> [u8; 4] {
        self.get(IP + 16)
    }

    /// From the IPv4 header on.
    pub(crate) fn len(&self) -> usize {
        self.0.len() - IP
    }

    /// Sums up the header.
    pub(crate) fn seal(&mut self) {
        self.set(IP + 10, &[0; 2]);
        let sum = !self.header_sum();
        self.set(IP + 10, &sum.to_be_bytes());
    }

    fn header_sum(&self) -> u16 {
        let words = self.0[IP..IP + 20].chunks_exact(2);
        folded(
            words
                .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
                .sum(),
        )
    }
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}
