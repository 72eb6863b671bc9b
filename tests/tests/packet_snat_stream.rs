//! What ends a TCP connection in the SNAT table: the two who speak, and nobody who guesses.

use flannel_common::program::Program::{UplinkSnatRx, UplinkTx};
use flannel_common::snat::{self, Entry, LEAP, NANOS};
use flannel_tests::packet::line::{Line, Side};
use flannel_tests::packet::outside::{ACK, FIN_ACK, POD, Plain, RST, SYN, SYN_ACK, US};
use flannel_tests::packet::{Fixture, Node};
use rstest::rstest;

const ESTABLISHED: u64 = 432_000;
const HALF_CLOSED: u64 = 60;
const RESET: u64 = 10;
const SYN_RECEIVED: u64 = 60;
const WAITING: u64 = 300;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// A pod's, translated.
    Pod,
    /// The node's own, under a port of the range.
    Node,
    /// One that came in for a pod from outside.
    Guest,
}

struct Connection {
    node: Fixture,
    of: Of,
    out: Plain,
    back: Plain,
    line: Line,
}

impl Connection {
    fn none(of: Of) -> Self {
        let node = Node {
            snat_ports: (50_000, 50_000),
            ..Node::default()
        };
        let pod = Plain::default();
        let (out, back) = match of {
            Of::Pod => (pod, pod.from(US, 50_000).answer()),
            Of::Node => (pod.from(US, 50_000), pod.from(US, 50_000).answer()),
            Of::Guest => (pod, pod.answer()),
        };
        Self {
            node: node.load_snat(),
            of,
            out,
            back,
            line: Line::default(),
        }
    }

    /// After data both ways.
    fn established(of: Of) -> Self {
        let mut this = Self::none(of);
        let first = this.opener();
        this.sends(first, SYN);
        this.sends(first.other(), SYN_ACK);
        for side in [first, first.other(), first] {
            this.sends(side, ACK);
        }
        let empty = Plain {
            payload: 0,
            ..this.plain(first.other())
        };
        let acknowledged = this.line.tcp(first.other(), empty, ACK);
        this.passes(first.other(), &acknowledged);
        assert_eq!(this.lives(), ESTABLISHED);
        this
    }

    fn opener(&self) -> Side {
        match self.of {
            Of::Guest => Side::In,
            _ => Side::Out,
        }
    }

    fn plain(&self, side: Side) -> Plain {
        match side {
            Side::Out => self.out,
            Side::In => self.back,
        }
    }

    fn passes(&mut self, side: Side, packet: &[u8]) {
        match side {
            Side::Out => self.node.run(UplinkTx, packet),
            Side::In => self.node.run(UplinkSnatRx, packet),
        };
    }

    /// As that side does.
    fn sends(&mut self, side: Side, flags: u8) {
        let plain = self.plain(side);
        let packet = self.line.tcp(side, plain, flags);
        self.passes(side, &packet);
    }

    /// In that side's name.
    fn forged(&mut self, side: Side, flags: u8, seq: u32, ack: u32) {
        let plain = Plain {
            seq,
            ack,
            ..self.plain(side)
        };
        self.passes(side, &plain.tcp(flags));
    }

    fn lives(&mut self) -> u64 {
        self.node.snat_lifetime()
    }

    /// That it is still this connection, with its state: a true end is believed.
    fn ends(mut self) {
        self.sends(Side::Out, RST | ACK);
        assert_eq!(self.lives(), RESET);
    }

    fn change(&mut self, change: impl Fn(&mut Entry)) {
        for (key, mut entry) in self.node.snat_entries() {
            change(&mut entry);
            self.node.set_snat(&key, &entry);
        }
    }
}

const SIDES: [Side; 2] = [Side::Out, Side::In];

/// As many as a forger could send at a venture.
fn guesses() -> impl Iterator<Item = (u32, u32)> {
    (0..200_u32).map(|nth| {
        (
            nth.wrapping_mul(0x9e37_79b9) | 1 << 20,
            nth.wrapping_mul(0x85eb_ca6b),
        )
    })
}

#[rstest]
fn a_forged_segment_ends_nothing(
    #[values(Of::Pod, Of::Node, Of::Guest)] of: Of,
    #[values(RST, RST | ACK, FIN_ACK, SYN, SYN_ACK, SYN | RST, SYN | FIN_ACK)] flags: u8,
) {
    let mut connection = Connection::established(of);
    for side in SIDES {
        for (seq, ack) in guesses() {
            connection.forged(side, flags, seq, ack);
        }
        assert_eq!(connection.lives(), ESTABLISHED, "in the name of {side:?}");
    }
    // Nor do the two notice anything of it.
    for side in SIDES {
        connection.sends(side, ACK);
    }
    connection.ends();
}

/// A number that was never true does not become so because somebody said it before.
#[rstest]
fn a_forged_segment_does_not_prepare_another(
    #[values(Of::Pod, Of::Node, Of::Guest)] of: Of,
    #[values(RST, FIN_ACK)] flags: u8,
) {
    let mut connection = Connection::established(of);
    for side in SIDES {
        for (seq, ack) in guesses() {
            connection.forged(side, ACK, seq, ack);
            connection.forged(side.other(), ACK, ack, seq);
            connection.forged(side, flags, seq.wrapping_add(32), ack);
            connection.forged(side.other(), ACK, ack, seq.wrapping_add(33));
        }
        assert_eq!(connection.lives(), ESTABLISHED, "in the name of {side:?}");
    }
    connection.ends();
}

/// What changes nothing does not make the flow younger either.
#[rstest]
fn a_forged_reset_keeps_nothing_alive(
    #[values(Of::Pod, Of::Node, Of::Guest)] of: Of,
    #[values(RST, SYN)] flags: u8,
) {
    let mut connection = Connection::established(of);
    connection.change(|entry| entry.last_seen -= 1000 * NANOS);
    let before = connection.node.snat_entries();
    for side in SIDES {
        connection.forged(side, flags, 7, 7);
    }
    let seen = |entries: &[(snat::Key, Entry)]| -> Vec<_> {
        entries.iter().map(|e| (e.1.last_seen, e.1.seen)).collect()
    };
    assert_eq!(seen(&connection.node.snat_entries()), seen(&before));
}

#[rstest]
fn a_true_reset_ends_it(
    #[values(Of::Pod, Of::Node, Of::Guest)] of: Of,
    #[values(Side::Out, Side::In)] side: Side,
) {
    let mut connection = Connection::established(of);
    connection.sends(side, RST);
    assert_eq!(connection.lives(), RESET);
}

/// With data under way that nobody has acknowledged, behind it, or where the other side is.
#[rstest]
fn a_true_reset_with_data_under_way_ends_it(
    #[values(Of::Pod, Of::Node, Of::Guest)] of: Of,
    #[values(Side::Out, Side::In)] side: Side,
    #[values(true, false)] behind: bool,
) {
    let mut connection = Connection::established(of);
    let acknowledged = connection.line.next(side);
    connection.sends(side, ACK);
    connection.sends(side, ACK);
    let sent = connection.line.next(side);
    connection.forged(side, RST, acknowledged.wrapping_add(32), 0);
    assert_eq!(connection.lives(), ESTABLISHED, "in between");
    let heard = connection.line.next(side.other());
    if behind {
        // A forger may have sent what is under way; what was heard he does not know.
        for (flags, ack) in [
            (RST, 0),
            (RST | ACK, heard.wrapping_add(1)),
            (RST | ACK, heard.wrapping_sub(1)),
        ] {
            connection.forged(side, flags, sent, ack);
            assert_eq!(connection.lives(), ESTABLISHED, "{flags:#x} {ack}");
        }
        connection.forged(side, RST | ACK, sent, heard);
    } else {
        connection.forged(side, RST, acknowledged, 0);
    }
    assert_eq!(connection.lives(), RESET);
}

#[rstest]
fn a_fin_counts_once_it_is_acknowledged(
    #[values(Of::Pod, Of::Node, Of::Guest)] of: Of,
    #[values(Side::Out, Side::In)] side: Side,
) {
    let mut connection = Connection::established(of);
    connection.sends(side, FIN_ACK);
    assert_eq!(connection.lives(), WAITING);
    connection.sends(side.other(), ACK);
    assert_eq!(connection.lives(), HALF_CLOSED);
    connection.sends(side.other(), FIN_ACK);
    connection.sends(side, ACK);
    let entries = connection.node.snat_entries();
    let seen = entries.iter().fold(snat::Seen::default(), |seen, e| {
        seen.and(snat::Seen(e.1.seen))
    });
    assert!(seen.is_closed(), "{seen:?}");
}

/// The other host is gone.
#[rstest]
fn a_connection_whose_end_nobody_hears_lives_as_long_as_one_that_nobody_answers(
    #[values(Of::Pod, Of::Node, Of::Guest)] of: Of,
    #[values(Side::Out, Side::In)] side: Side,
) {
    let mut connection = Connection::established(of);
    connection.sends(side, FIN_ACK);
    assert_eq!(connection.lives(), WAITING);
    // What does not acknowledge it is no answer.
    let at = connection.line.next(side.other());
    connection.forged(side.other(), ACK, at, 4711);
    assert_eq!(connection.lives(), WAITING);
    connection.sends(side.other(), ACK);
    assert_eq!(connection.lives(), HALF_CLOSED);
}

#[rstest]
fn data_that_nobody_acknowledges_is_as_good_as_unanswered(
    #[values(Of::Pod, Of::Node, Of::Guest)] of: Of,
    #[values(Side::Out, Side::In)] side: Side,
) {
    let mut connection = Connection::established(of);
    let before = connection.line;
    connection.sends(side, ACK);
    assert_eq!(connection.lives(), ESTABLISHED, "the first time");
    connection.line = before;
    connection.sends(side, ACK);
    assert_eq!(connection.lives(), WAITING, "again");
    connection.sends(side.other(), ACK);
    assert_eq!(connection.lives(), ESTABLISHED, "acknowledged");
    connection.ends();
}

/// Who knows addresses and ports alone would have to know the number that is expected, to the byte.
#[rstest]
fn a_forger_makes_nobody_wait(
    #[values(Of::Pod, Of::Node, Of::Guest)] of: Of,
    #[values(ACK, FIN_ACK)] flags: u8,
) {
    let mut connection = Connection::established(of);
    for side in SIDES {
        let at = connection.line.next(side);
        let near = (1..200_u32).flat_map(|by| [at.wrapping_sub(by), at.wrapping_add(by)]);
        for (seq, ack) in guesses().chain(near.map(|seq| (seq, 4711))) {
            for _ in 0..4 {
                connection.forged(side, flags, seq, ack);
            }
        }
        assert_eq!(connection.lives(), ESTABLISHED, "in the name of {side:?}");
    }
}

/// More than a forger may move an end by was lost in one piece, ahead of the node.
#[rstest]
fn an_end_that_was_lost_is_found_again(
    #[values(Of::Pod, Of::Node, Of::Guest)] of: Of,
    #[values(Side::Out, Side::In)] side: Side,
    #[values(RST, FIN_ACK)] flags: u8,
) {
    let mut connection = Connection::established(of);
    let lost = Plain {
        payload: 60_000,
        ..connection.plain(side)
    };
    for _ in 0..20 {
        connection.line.tcp(side, lost, ACK);
    }
    if flags == RST {
        connection.sends(side, ACK);
        connection.sends(side.other(), ACK);
        connection.sends(side, RST | ACK);
        assert_eq!(connection.lives(), RESET);
    } else {
        connection.sends(side, FIN_ACK);
        connection.sends(side.other(), ACK);
        assert_eq!(connection.lives(), HALF_CLOSED);
    }
}

/// Neither side says so when it repeats what was lost.
#[rstest]
fn lost_segments_do_not_blind_the_table(
    #[values(Of::Pod, Of::Node, Of::Guest)] of: Of,
    #[values(Side::Out, Side::In)] side: Side,
) {
    let mut connection = Connection::established(of);
    let plain = connection.plain(side);
    for _ in 0..200 {
        // Lost before it came here, and never repeated: as many as may be lost at once.
        let lost = Plain {
            payload: 1400,
            ..plain
        };
        for _ in 0..LEAP / 1400 - 1 {
            connection.line.tcp(side, lost, ACK);
        }
        connection.sends(side, ACK);
        connection.sends(side.other(), ACK);
    }
    connection.sends(side, FIN_ACK);
    connection.sends(side.other(), ACK);
    assert_eq!(connection.lives(), HALF_CLOSED);
}

/// Short frames are padded, and what is behind the packet is none of it.
#[rstest]
fn padding_is_no_data(
    #[values(Of::Pod, Of::Node, Of::Guest)] of: Of,
    #[values(Side::Out, Side::In)] side: Side,
) {
    let mut connection = Connection::established(of);
    let empty = Plain {
        payload: 0,
        ..connection.plain(side)
    };
    let mut packet = connection.line.tcp(side, empty, ACK);
    packet.extend([0; 6]);
    connection.passes(side, &packet);
    let at = connection.line.next(side);
    connection.forged(side, RST, at.wrapping_add(6), 0);
    assert_eq!(connection.lives(), ESTABLISHED);
    connection.sends(side, RST | ACK);
    assert_eq!(connection.lives(), RESET);
}

/// Both hosts have forgotten it: a new one under the same ports gets its numbers.
#[rstest]
fn a_new_connection_in_the_middle_is_followed_once_it_is_answered(
    #[values(Of::Pod, Of::Node, Of::Guest)] of: Of,
) {
    let mut connection = Connection::established(of);
    let first = connection.opener();
    connection.line = Line::default();
    for _ in 0..1000 {
        let plain = Plain {
            payload: 65_000,
            ..Plain::default()
        };
        for side in SIDES {
            connection.line.tcp(side, plain, ACK);
        }
    }
    connection.sends(first, SYN);
    assert_eq!(connection.lives(), ESTABLISHED);
    connection.sends(first.other(), SYN_ACK);
    assert_eq!(connection.lives(), SYN_RECEIVED);
    connection.sends(first, ACK);
    assert_eq!(connection.lives(), ESTABLISHED);
    connection.ends();
}

#[rstest]
fn a_new_connection_in_place_of_a_closed_one_is_followed(
    #[values(Of::Pod, Of::Node, Of::Guest)] of: Of,
) {
    let mut connection = Connection::established(of);
    let first = connection.opener();
    connection.sends(first, RST | ACK);
    connection.line = Line::default();
    connection.sends(first, SYN);
    assert_eq!(connection.lives(), 120);
    connection.sends(first.other(), SYN_ACK);
    connection.sends(first, ACK);
    assert_eq!(connection.lives(), ESTABLISHED);
    for (seq, ack) in guesses() {
        connection.forged(first, RST, seq, ack);
    }
    assert_eq!(connection.lives(), ESTABLISHED);
    connection.ends();
}

/// Of what was there before, from an agent that did not look at numbers: it is learnt from both sides, and nothing else.
#[rstest]
fn an_unknown_connection_is_safe_and_gets_known(#[values(Of::Pod, Of::Node, Of::Guest)] of: Of) {
    let mut connection = Connection::established(of);
    connection.change(|entry| entry.sides = [snat::Side::NONE; 2]);
    for side in SIDES {
        for (seq, ack) in guesses() {
            for flags in [ACK, RST, RST | ACK, FIN_ACK, SYN_ACK, SYN] {
                connection.forged(side, flags, seq, ack);
            }
        }
        // The true number is as good as a forged one.
        let (seq, ack) = (
            connection.line.next(side),
            connection.line.next(side.other()),
        );
        connection.forged(side, RST, seq, ack);
        assert_eq!(connection.lives(), ESTABLISHED, "in the name of {side:?}");
        connection.change(|entry| entry.sides = [snat::Side::NONE; 2]);
    }
    for side in SIDES {
        connection.sends(side, ACK);
    }
    connection.ends();
}

/// The LRU takes a half, and nobody else makes use of that.
#[rstest]
fn a_mended_half_is_unknown(
    #[values(0, 1)] lost: usize,
    #[values(Side::Out, Side::In)] side: Side,
) {
    let mut connection = Connection::established(Of::Pod);
    let halves: [snat::Key; 2] = connection.node.snat_halves().into();
    connection.node.evict_snat(&halves[lost]);
    let at = connection.line.next(side);
    connection.forged(side, RST, at, 0);
    connection.forged(side, RST, at.wrapping_add(9), 0);
    assert_ne!(connection.lives(), RESET);
    for side in SIDES {
        connection.sends(side, ACK);
    }
    connection.ends();
}

/// A pod's own SYN, or one in its name, does not make the replies of a connection that came in leave as the node.
#[test]
fn a_guest_stays_one_whatever_syn_its_pod_sends() {
    let mut connection = Connection::established(Of::Guest);
    connection.forged(Side::Out, SYN, 4711, 0);
    let reply = connection.line.tcp(Side::Out, connection.out, ACK);
    assert_eq!(connection.node.run(UplinkTx, &reply).packet, reply);
    assert_eq!(connection.out.src, POD);
    connection.ends();
}
