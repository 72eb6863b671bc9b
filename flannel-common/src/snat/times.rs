//! How long a flow lives after its last packet: what the node's conntrack has for a flow in that state.
//!
//! With flannel it is conntrack that masquerades, so its sysctls are what operators know, raise and lower. The agent reads them and
//! writes them into [`crate::maps::TIMES`], from which programs and agent judge alike.

use bytemuck::{Pod, Zeroable};

use super::seen::{self, Seen};
use super::transport::Transport;
use super::{NANOS, Side};
use crate::header::PROTO_TCP;

/// Seconds by state, each no less than [`Times::LEAST`]. Named like the sysctls, without `nf_conntrack_` and `timeout_`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Times {
    pub tcp_syn_sent: u32,
    pub tcp_syn_recv: u32,
    pub tcp_established: u32,
    /// One side has ended, and the other knows.
    pub tcp_close_wait: u32,
    /// Both have.
    pub tcp_time_wait: u32,
    /// Reset.
    pub tcp_close: u32,
    /// The middle of a connection that nobody answered, or of which a side waits.
    pub tcp_unacknowledged: u32,
    /// Of which a side waits and has repeated itself.
    pub tcp_max_retrans: u32,
    /// UDP that is not answered, or in use for less than two seconds.
    pub udp: u32,
    pub udp_stream: u32,
    pub icmp: u32,
    pub generic: u32,
    pub gre: u32,
    pub gre_stream: u32,
    /// SCTP that is not answered.
    pub sctp: u32,
    pub sctp_established: u32,
}

/// Index of a field of [`Times`]; those of TCP are [`seen::tcp`]'s.
const UDP: u8 = 8;
const UDP_STREAM: u8 = 9;
const ICMP: u8 = 10;
const GENERIC: u8 = 11;
const GRE: u8 = 12;
const GRE_STREAM: u8 = 13;
const SCTP: u8 = 14;
const SCTP_ESTABLISHED: u8 = 15;

const FIELDS: usize = 16;

const PROTO_GRE: u8 = 47;

/// conntrack takes a UDP flow that is answered and still in use after two seconds for a stream (`UDP_CT_REPLIED`, `stream_ts`).
pub(super) const KEPT_UP: u64 = 2 * NANOS;

impl Default for Times {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Times {
    /// The kernel's own (`nf_conntrack_proto_*.c`).
    pub const DEFAULT: Self = Self {
        tcp_syn_sent: 120,
        tcp_syn_recv: 60,
        tcp_established: 432_000,
        tcp_close_wait: 60,
        tcp_time_wait: 120,
        tcp_close: 10,
        tcp_unacknowledged: 300,
        tcp_max_retrans: 300,
        udp: 30,
        udp_stream: 120,
        icmp: 30,
        generic: 600,
        gre: 30,
        gre_stream: 180,
        sctp: 30,
        sctp_established: 210,
    };

    /// With 0, which the kernel takes, no answer would find its flow.
    pub const LEAST: u32 = 1;

    /// As the kernel bounds them: it counts ticks, of which there are up to a thousand a second, in an `int`.
    pub const MOST: u32 = i32::MAX as u32;

    /// As a map that nobody has written to yet holds them: the kernel's own.
    #[must_use]
    pub fn or_default(self) -> Self {
        match self == Self::zeroed() {
            true => Self::DEFAULT,
            false => self,
        }
    }

    #[inline(always)]
    fn seconds(&self, state: u8) -> u32 {
        let all: &[u32; FIELDS] = bytemuck::cast_ref(self);
        // The verifier does not know what is in the table of states.
        all[state as usize % FIELDS]
    }

    /// Nanoseconds after its last packet for which a flow lives of which that was seen, `length` nanoseconds from its first packet to
    /// its last.
    #[inline(always)]
    #[must_use]
    pub fn lifetime(&self, proto: u8, seen: Seen, length: u64) -> u64 {
        u64::from(self.seconds(state(proto, seen, length))) * NANOS
    }

    /// The same of a flow of which `sides` are known. A TCP connection of which one side waits for the other is as good as one that
    /// nobody answered; who waits repeats itself every two minutes.
    #[must_use]
    pub fn lifetime_of(&self, proto: u8, seen: Seen, length: u64, [out, back]: [&Side; 2]) -> u64 {
        let lifetime = self.lifetime(proto, seen, length);
        if out.waits_for(back) || back.waits_for(out) {
            return lifetime.min(self.waiting());
        }
        lifetime
    }

    /// How long a connection lives of which one side waits for the other. It has repeated itself: conntrack goes by the shorter of two
    /// by then, or soon.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        u64::from(self.tcp_unacknowledged.min(self.tcp_max_retrans)) * NANOS
    }

    /// The shortest time that a flow may have of which one half saw this, unless the other half's is shorter.
    pub(super) fn least(&self, proto: u8, half: Seen) -> u64 {
        let bits = half.outward() | half.inward();
        let seconds = match Transport::of(proto) {
            Transport::Tcp if bits & Seen::RST != 0 => self.tcp_close,
            Transport::Tcp if bits & Seen::FIN != 0 => self.tcp_close_wait.min(self.tcp_time_wait),
            Transport::Tcp => {
                let begun = self.tcp_syn_sent.min(self.tcp_syn_recv);
                let goes_on = self.tcp_established.min(self.tcp_unacknowledged);
                begun.min(goes_on)
            }
            Transport::Udp => self.udp.min(self.udp_stream),
            Transport::Icmp => self.icmp,
            Transport::Sctp => self.sctp.min(self.sctp_established),
            Transport::Other if proto == PROTO_GRE => self.gre.min(self.gre_stream),
            Transport::Other => self.generic,
        };
        u64::from(seconds) * NANOS
    }
}

/// Index of the time in [`Times`]. With one branch: each would double the paths that the verifier follows.
#[inline(always)]
fn state(proto: u8, seen: Seen, length: u64) -> u8 {
    if proto == PROTO_TCP {
        return seen::tcp(seen);
    }
    let (out, back) = (seen.0 & 0xf, seen.0 >> 4);
    let answered = (out + 0xf) >> 4 & (back + 0xf) >> 4;
    // Flows are not that old.
    let kept_up = ((KEPT_UP - 1).wrapping_sub(length) >> 63) as u8;
    OTHERS[proto as usize][(answered + (answered & kept_up)) as usize & 3]
}

/// By protocol; and by whether it was answered, and then kept up for [`KEPT_UP`].
static OTHERS: [[u8; 4]; 256] = {
    let mut all = [[GENERIC; 4]; 256];
    let mut proto = 0;
    while proto < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let number = proto as u8;
        all[proto] = match Transport::of(number) {
            Transport::Udp => [UDP, UDP, UDP_STREAM, UDP_STREAM],
            Transport::Icmp => [ICMP; 4],
            Transport::Sctp => [SCTP, SCTP_ESTABLISHED, SCTP_ESTABLISHED, SCTP_ESTABLISHED],
            Transport::Other if number == PROTO_GRE => [GRE, GRE_STREAM, GRE_STREAM, GRE_STREAM],
            Transport::Tcp | Transport::Other => [GENERIC; 4],
        };
        proto += 1;
    }
    all
};

/// How long a flow keeps its port when another needs one and finds none free, in nanoseconds; `lifetime` is how long it would live.
///
/// A closed connection is only waited for: what may still come are its last acknowledgements. Else a pod could not open
/// more connections to one place than the range has ports in two minutes; the kernel's NAT makes room in the same way
/// (`nf_nat_may_kill`).
#[inline(always)]
pub(super) fn hold(proto: u8, seen: Seen, lifetime: u64) -> u64 {
    match proto {
        PROTO_TCP if seen.is_closed() => CLOSED_HOLD,
        _ => lifetime,
    }
}

/// Longer than a retransmission of the last segments takes on most paths.
const CLOSED_HOLD: u64 = Times::LEAST as u64 * NANOS;

const _: () = assert!(size_of::<Times>() == 4 * FIELDS);
const _: () = assert!(Times::MOST as u64 <= u64::MAX / NANOS);

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::super::seen::tests::flow;
    use super::*;

    const TCP: u8 = 6;
    const S: u8 = Seen::SYN;
    const A: u8 = Seen::ACK;
    const F: u8 = Seen::FIN;
    const R: u8 = Seen::RST;

    /// Each field another number.
    const ODD: Times = Times {
        tcp_syn_sent: 1,
        tcp_syn_recv: 2,
        tcp_established: 3,
        tcp_close_wait: 4,
        tcp_time_wait: 5,
        tcp_close: 6,
        tcp_unacknowledged: 7,
        tcp_max_retrans: 8,
        udp: 9,
        udp_stream: 10,
        icmp: 11,
        generic: 12,
        gre: 13,
        gre_stream: 14,
        sctp: 15,
        sctp_established: 16,
    };

    /// By the kernel's own times, and by others.
    #[rstest]
    #[case::syn_sent(&[(true, S)], 120, 1)]
    #[case::syn_received(&[(true, S), (false, S | A)], 60, 2)]
    #[case::established(&[(true, S), (false, S | A), (true, A)], 432_000, 3)]
    #[case::picked_up_in_the_middle(&[(true, A)], 300, 7)]
    #[case::picked_up_and_answered(&[(true, A), (false, A)], 432_000, 3)]
    #[case::fin_sent(&[(true, S), (false, S | A), (true, A), (true, F | A)], 60, 4)]
    #[case::fin_received(&[(true, S), (false, S | A), (true, A), (false, F | A)], 60, 4)]
    #[case::both_fin(&[(true, S), (false, S | A), (true, A), (true, F | A), (false, F | A), (true, A)], 120, 5)]
    #[case::refused(&[(true, S), (false, R | A)], 10, 6)]
    #[case::reset(&[(true, S), (false, S | A), (true, A), (true, R)], 10, 6)]
    #[case::forged_reset(&[(true, S), (false, S | A), (true, A), (false, R), (false, A)], 432_000, 3)]
    #[case::real_reset(&[(true, S), (false, S | A), (true, A), (false, R), (true, A)], 10, 6)]
    #[case::came_in(&[(false, S), (true, S | A), (false, A)], 432_000, 3)]
    #[case::came_in_half_open(&[(false, S), (true, S | A)], 60, 2)]
    fn tcp_times(#[case] packets: &[(bool, u8)], #[case] default: u64, #[case] odd: u64) {
        let seconds = |times: Times| times.lifetime(TCP, flow(packets), 0) / NANOS;
        assert_eq!((seconds(Times::DEFAULT), seconds(ODD)), (default, odd));
    }

    #[rstest]
    #[case::udp_unanswered(17, &[(true, A)], 9, 30, 9)]
    #[case::udp_question_and_answer(17, &[(true, A), (false, A)], 1, 30, 9)]
    #[case::udp_stream(17, &[(true, A), (false, A)], 2, 120, 10)]
    #[case::icmp(1, &[(true, A), (false, A)], 9, 30, 11)]
    #[case::esp(50, &[(true, A), (false, A)], 9, 600, 12)]
    #[case::gre(47, &[(true, A)], 9, 30, 13)]
    #[case::gre_answered(47, &[(true, A), (false, A)], 0, 180, 14)]
    #[case::sctp(132, &[(true, A)], 9, 30, 15)]
    #[case::sctp_answered(132, &[(true, A), (false, A)], 0, 210, 16)]
    fn other_times(
        #[case] proto: u8,
        #[case] packets: &[(bool, u8)],
        #[case] length: u64,
        #[case] default: u64,
        #[case] odd: u64,
    ) {
        let lifetime = |times: Times| times.lifetime(proto, flow(packets), length * NANOS) / NANOS;
        assert_eq!((lifetime(Times::DEFAULT), lifetime(ODD)), (default, odd));
    }

    #[test]
    fn who_waits_has_the_shorter_of_two_and_no_more_than_anybody() {
        let waiting = |unacknowledged, max_retrans| {
            let times = Times {
                tcp_unacknowledged: unacknowledged,
                tcp_max_retrans: max_retrans,
                ..Times::DEFAULT
            };
            times.waiting() / NANOS
        };
        assert_eq!(waiting(300, 300), 300);
        assert_eq!((waiting(100, 300), waiting(300, 40)), (100, 40));
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
        let lifetime = |proto| Times::DEFAULT.lifetime(proto, seen, 0);
        assert_eq!(hold(TCP, seen, lifetime(TCP)) < lifetime(TCP), early);
        assert_eq!(
            hold(17, seen, lifetime(17)),
            lifetime(17),
            "UDP has no flags"
        );
    }

    #[test]
    fn nobody_has_written_yet() {
        assert_eq!(Times::zeroed().or_default(), Times::DEFAULT);
        assert_eq!(ODD.or_default(), ODD);
    }

    #[test]
    fn the_longest_time_is_a_number_of_nanoseconds() {
        let mut times = Times::DEFAULT;
        times.icmp = Times::MOST;
        assert_eq!(
            times.lifetime(1, Seen::default(), 0),
            u64::from(Times::MOST) * NANOS
        );
    }

    pub(in crate::snat) fn any_times() -> impl Strategy<Value = Times> {
        prop::array::uniform16(1..2_000u32).prop_map(bytemuck::cast)
    }
}
