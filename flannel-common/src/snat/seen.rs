//! The state of a flow: what was seen of it each way.

use super::transport::Transport;
use crate::header::PROTO_TCP;

/// Nanoseconds per second.
pub const NANOS: u64 = 1_000_000_000;

/// How long a first fragment speaks for its followers: the kernel's `ipfrag_time`.
pub const FRAGMENT_LIFETIME: u64 = 30 * NANOS;

/// What was seen: the low four bits on the way out, the high four on the way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen(pub u8);

impl Seen {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    /// TCP: acknowledgement; every other protocol: a packet.
    pub const ACK: u8 = 8;

    #[inline(always)]
    pub const fn out(bits: u8) -> Self {
        Self(bits & 0xf)
    }

    #[inline(always)]
    pub const fn back(bits: u8) -> Self {
        Self(bits << 4)
    }

    /// Of a packet that the side 0 ([`Seen::out`]) or 1 ([`Seen::back`]) sent.
    #[inline(always)]
    pub const fn of_side(nth: usize, bits: u8) -> Self {
        Self((bits & 0xf) << ((nth & 1) * 4))
    }

    #[inline(always)]
    pub const fn outward(self) -> u8 {
        self.0 & 0xf
    }

    #[inline(always)]
    pub const fn inward(self) -> u8 {
        self.0 >> 4
    }

    /// Both ways together: the halves of a flow each know one.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// After one more packet. A side that goes on talking after its reset has not sent that reset:
    /// a forged one must not end a flow early.
    #[inline(always)]
    #[must_use]
    pub const fn then(self, packet: Self) -> Self {
        // Without branches, of which each doubles the paths of the verifier.
        let some = packet.0 | packet.0 >> 1;
        let talks = (some | some >> 2) & (1 | 1 << 4);
        let resets = (talks * Self::RST) & !packet.0;
        let kept = self.0 & !resets;
        Self(kept | packet.0)
    }

    /// Whether the TCP connection is over or about to be, so that a SYN begins another.
    #[inline(always)]
    pub const fn is_closing(self) -> bool {
        self.closing() != 0
    }

    /// The same as 1 or 0.
    #[inline(always)]
    pub(super) const fn closing(self) -> u32 {
        let either = self.0 | self.0 >> 4;
        const { assert!(Self::FIN == 1 && Self::RST == 4) };
        ((either | either >> 2) & 1) as u32
    }

    /// Whether both sides of a TCP connection speak, and neither is about to end it.
    #[inline(always)]
    pub const fn goes_on(self) -> bool {
        self.0 & self.0 >> 4 & Self::ACK != 0 && !self.is_closing()
    }

    /// Whether the TCP connection is over: ended by both sides, or reset.
    #[inline(always)]
    pub const fn is_closed(self) -> bool {
        let (out, back) = (self.outward(), self.inward());
        out & back & Self::FIN != 0 || (out | back) & Self::RST != 0
    }
}

/// The time of a TCP connection in [`Times`](super::Times).
#[inline(always)]
pub(super) fn tcp(seen: Seen) -> u8 {
    TCP[seen.0 as usize]
}

/// By [`Seen`]: a table, because every branch in the kernel is a path for the verifier.
static TCP: [u8; 256] = {
    let mut times = [0; 256];
    let mut seen = 0;
    while seen < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let state = Seen(seen as u8);
        times[seen] = Tcp::of(state).time();
        seen += 1;
    }
    times
};

/// What both ways together say of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tcp {
    Reset,
    /// One side is done.
    HalfClosed,
    /// Both are, and a late segment may still come.
    Closed,
    SynSent,
    /// The middle of something nobody knows.
    Unanswered,
    /// SYN and SYN-ACK, but the one who asked has not confirmed.
    SynReceived,
    Established,
}

impl Tcp {
    const fn of(seen: Seen) -> Self {
        let (out, back) = (seen.outward(), seen.inward());
        if (out | back) & Seen::RST != 0 {
            Self::Reset
        } else if out & back & Seen::FIN != 0 {
            Self::Closed
        } else if (out | back) & Seen::FIN != 0 {
            Self::HalfClosed
        } else if out == 0 || back == 0 {
            if (out | back) & Seen::SYN != 0 {
                Self::SynSent
            } else {
                Self::Unanswered
            }
        } else if out == Seen::SYN || back == Seen::SYN {
            Self::SynReceived
        } else {
            Self::Established
        }
    }

    /// Index of the field of [`Times`](super::Times).
    const fn time(self) -> u8 {
        match self {
            Self::Reset => 5,
            Self::HalfClosed => 3,
            Self::Closed => 4,
            Self::SynSent => 0,
            Self::Unanswered => 6,
            Self::SynReceived => 1,
            Self::Established => 2,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::HalfClosed | Self::Closed => "closing",
            Self::SynSent => "syn_sent",
            Self::Unanswered => "unanswered",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
        }
    }
}

/// The same in a word, for people.
pub const fn state(proto: u8, seen: Seen) -> &'static str {
    match Transport::of(proto) {
        Transport::Tcp => Tcp::of(seen).name(),
        _ if seen.outward() != 0 && seen.inward() != 0 => "answered",
        _ => "unanswered",
    }
}

const _: () = assert!(matches!(Transport::of(PROTO_TCP), Transport::Tcp));

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const TCP: u8 = 6;
    const S: u8 = Seen::SYN;
    const A: u8 = Seen::ACK;
    const F: u8 = Seen::FIN;
    const R: u8 = Seen::RST;

    /// What is known after packets, out or back, with these flags.
    pub(in crate::snat) fn flow(packets: &[(bool, u8)]) -> Seen {
        packets.iter().fold(Seen::default(), |seen, (out, bits)| {
            seen.then(if *out {
                Seen::out(*bits)
            } else {
                Seen::back(*bits)
            })
        })
    }

    #[test]
    fn states_have_names() {
        let name = |packets| state(TCP, flow(packets));
        assert_eq!(name(&[(true, S)]), "syn_sent");
        assert_eq!(name(&[(true, S), (false, S | A)]), "syn_received");
        assert_eq!(name(&[(true, S), (false, S | A), (true, A)]), "established");
        assert_eq!(name(&[(true, A), (false, R)]), "reset");
        assert_eq!(state(17, flow(&[(true, A), (false, A)])), "answered");
        assert_eq!(state(17, flow(&[(true, A)])), "unanswered");
    }

    #[test]
    fn a_syn_begins_anew_only_what_is_closing() {
        assert!(!flow(&[(true, S), (false, S | A), (true, A)]).is_closing());
        assert!(flow(&[(true, S), (false, R | A)]).is_closing());
        assert!(flow(&[(true, S), (false, S | A), (true, F | A)]).is_closing());
    }
}
