//! Connections that the table knows nothing of, or something that is not true any more.

use flannel_common::program::Program::UplinkTx;
use flannel_common::snat;
use flannel_tests::packet::line::{Line, Side};
use flannel_tests::packet::outside::{ACK, FIN_ACK, POD, Plain, RST, SYN, SYN_ACK};
use rstest::rstest;

use super::{Connection, ESTABLISHED, Of, RESET, SIDES, SYN_RECEIVED, guesses};

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
