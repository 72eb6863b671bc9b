//! The state of a flow: what was seen of it each way, and how long that keeps it.

use super::Side;
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

/// How long a flow in this state lives after its last packet, in nanoseconds.
///
/// The values are those of `nf_conntrack_proto_*.c`; for established TCP the day that kube-proxy sets
/// instead of the kernel's five.
#[inline(always)]
pub fn lifetime(proto: u8, seen: Seen) -> u64 {
    let seconds = match Transport::of(proto) {
        Transport::Tcp => TCP[seen.0 as usize],
        Transport::Udp if seen.outward() != 0 && seen.inward() != 0 => 120,
        Transport::Udp | Transport::Icmp => 30,
        Transport::Sctp | Transport::Other => 600,
    };
    seconds as u64 * NANOS
}

/// The same of a flow of which `sides` are known. A TCP connection of which one side waits for the other is as good as one that
/// nobody answered; who waits repeats itself every two minutes.
#[inline(always)]
pub fn lifetime_of(proto: u8, seen: Seen, [out, back]: [&Side; 2]) -> u64 {
    let lifetime = lifetime(proto, seen);
    if out.waits_for(back) || back.waits_for(out) {
        return lifetime.min(WAITING);
    }
    lifetime
}

/// Nanoseconds, as conntrack's `tcp_timeout_unacknowledged`.
pub(super) const WAITING: u64 = Tcp::Unanswered.seconds() as u64 * NANOS;

/// How long a flow keeps its port when another needs one and finds none free, in nanoseconds.
///
/// A closed connection is only waited for: what may still come are its last acknowledgements. Else a pod could not open
/// more connections to one place than the range has ports in two minutes; the kernel's NAT makes room in the same way
/// (`nf_nat_may_kill`).
#[inline(always)]
pub(super) fn hold(proto: u8, seen: Seen) -> u64 {
    match proto {
        PROTO_TCP if seen.is_closed() => CLOSED_HOLD,
        _ => lifetime(proto, seen),
    }
}

/// Longer than a retransmission of the last segments takes on most paths.
const CLOSED_HOLD: u64 = NANOS;

/// Seconds by [`Seen`]: a table, because every branch in the kernel is a path for the verifier.
static TCP: [u32; 256] = {
    let mut seconds = [0; 256];
    let mut seen = 0;
    while seen < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let state = Seen(seen as u8);
        seconds[seen] = Tcp::of(state).seconds();
        seen += 1;
    }
    seconds
};

/// What both ways together say of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tcp {
    Reset,
    /// One side is done, or both and a late segment may still come.
    Closing,
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
        } else if (out | back) & Seen::FIN != 0 {
            Self::Closing
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

    const fn seconds(self) -> u32 {
        match self {
            Self::Reset => 10,
            Self::Closing | Self::SynSent => 120,
            Self::Unanswered => 300,
            Self::SynReceived => 60,
            Self::Established => 86_400,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Closing => "closing",
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
mod tests {
    use super::*;
    use rstest::rstest;

    const TCP: u8 = 6;
    const S: u8 = Seen::SYN;
    const A: u8 = Seen::ACK;
    const F: u8 = Seen::FIN;
    const R: u8 = Seen::RST;

    fn flow(packets: &[(bool, u8)]) -> Seen {
        packets.iter().fold(Seen::default(), |seen, (out, bits)| {
            seen.then(if *out {
                Seen::out(*bits)
            } else {
                Seen::back(*bits)
            })
        })
    }

    #[rstest]
    #[case::syn_sent(&[(true, S)], 120)]
    #[case::syn_received(&[(true, S), (false, S | A)], 60)]
    #[case::established(&[(true, S), (false, S | A), (true, A)], 86_400)]
    #[case::picked_up_in_the_middle(&[(true, A)], 300)]
    #[case::picked_up_and_answered(&[(true, A), (false, A)], 86_400)]
    #[case::fin_sent(&[(true, S), (false, S | A), (true, A), (true, F | A)], 120)]
    #[case::fin_received(&[(true, S), (false, S | A), (true, A), (false, F | A)], 120)]
    #[case::both_fin(&[(true, S), (false, S | A), (true, A), (true, F | A), (false, F | A), (true, A)], 120)]
    #[case::refused(&[(true, S), (false, R | A)], 10)]
    #[case::reset(&[(true, S), (false, S | A), (true, A), (true, R)], 10)]
    #[case::forged_reset(&[(true, S), (false, S | A), (true, A), (false, R), (false, A)], 86_400)]
    #[case::real_reset(&[(true, S), (false, S | A), (true, A), (false, R), (true, A)], 10)]
    #[case::came_in(&[(false, S), (true, S | A), (false, A)], 86_400)]
    #[case::came_in_half_open(&[(false, S), (true, S | A)], 60)]
    fn tcp_times(#[case] packets: &[(bool, u8)], #[case] seconds: u64) {
        assert_eq!(lifetime(TCP, flow(packets)), seconds * NANOS);
    }

    #[rstest]
    #[case::udp_unanswered(17, &[(true, A)], 30)]
    #[case::udp_answered(17, &[(true, A), (false, A)], 120)]
    #[case::icmp(1, &[(true, A), (false, A)], 30)]
    #[case::gre(47, &[(true, A)], 600)]
    fn other_times(#[case] proto: u8, #[case] packets: &[(bool, u8)], #[case] seconds: u64) {
        assert_eq!(lifetime(proto, flow(packets)), seconds * NANOS);
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

    #[rstest]
    #[case::established(&[(true, S), (false, S | A), (true, A)], false)]
    #[case::one_side_done(&[(true, S), (false, S | A), (true, F | A), (false, A)], false)]
    #[case::both_done(&[(true, S), (false, S | A), (true, F | A), (false, F | A)], true)]
    #[case::reset(&[(true, S), (false, S | A), (false, R)], true)]
    #[case::forged_reset(&[(true, S), (false, S | A), (false, R), (false, A)], false)]
    fn a_closed_connection_gives_up_its_port_early(
        #[case] packets: &[(bool, u8)],
        #[case] early: bool,
    ) {
        let seen = flow(packets);
        assert_eq!(seen.is_closed(), early);
        assert_eq!(hold(TCP, seen) < lifetime(TCP, seen), early);
        assert_eq!(hold(17, seen), lifetime(17, seen), "UDP has no flags");
    }
}
