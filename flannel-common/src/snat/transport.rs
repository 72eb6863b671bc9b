//! What each protocol lets us change, and where.

use crate::header::{PROTO_ICMP, PROTO_TCP, PROTO_UDP, PROTO_UDP_LITE};

const PROTO_DCCP: u8 = 33;
const PROTO_SCTP: u8 = 132;

/// Protocols by what a translation has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    /// UDP, and UDP-Lite and DCCP, whose ports and checksum lie in the same places.
    Udp,
    /// Its CRC covers the ports but no address: translated under its own port or not at all.
    Sctp,
    /// Queries by their id; errors by the packet inside.
    Icmp,
    /// No ports (GRE, ESP, IPIP, …): one flow per protocol and remote address, as conntrack's generic tracker has it.
    Other,
}

impl Transport {
    #[inline(always)]
    pub const fn of(proto: u8) -> Self {
        match proto {
            PROTO_TCP => Self::Tcp,
            PROTO_UDP | PROTO_UDP_LITE | PROTO_DCCP => Self::Udp,
            PROTO_SCTP => Self::Sctp,
            PROTO_ICMP => Self::Icmp,
            _ => Self::Other,
        }
    }

    /// Whether the source port (or id) may be changed.
    #[inline(always)]
    pub const fn has_free_port(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Icmp)
    }

    /// Whether ports are taken from the configured range; ids use all 16 bits, the rest keeps its own.
    #[inline(always)]
    pub const fn has_port_range(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp)
    }
}

/// The ICMP type that answers, or is answered by, `kind`: echo, timestamp, information and address mask (RFC 792, 950).
#[inline(always)]
pub const fn counterpart(kind: u8) -> Option<u8> {
    match kind {
        0 => Some(8),
        8 => Some(0),
        13 | 15 | 17 => Some(kind + 1),
        14 | 16 | 18 => Some(kind - 1),
        _ => None,
    }
}

/// Whether an ICMP type asks for an answer.
#[inline(always)]
pub const fn is_icmp_request(kind: u8) -> bool {
    matches!(kind, 8 | 13 | 15 | 17)
}

/// Whether an ICMP type carries the packet it complains about (RFC 792): unreachable, source quench,
/// redirect, time exceeded, parameter problem.
#[inline(always)]
pub const fn is_icmp_error(kind: u8) -> bool {
    matches!(kind, 3 | 4 | 5 | 11 | 12)
}

/// Whether an ICMP type names a better gateway for the packet it carries.
#[inline(always)]
pub const fn is_icmp_redirect(kind: u8) -> bool {
    kind == 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counterparts_answer_each_other() {
        for kind in 0..=255 {
            if let Some(other) = counterpart(kind) {
                assert_eq!(counterpart(other), Some(kind));
                assert_ne!(is_icmp_request(kind), is_icmp_request(other));
                assert!(!is_icmp_error(kind));
            }
        }
    }
}
