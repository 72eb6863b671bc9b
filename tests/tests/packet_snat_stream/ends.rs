//! The ends of a connection, and what becomes of one whose end nobody hears.

use flannel_common::snat;
use flannel_tests::packet::line::Side;
use flannel_tests::packet::outside::{ACK, FIN_ACK, RST};
use rstest::rstest;

use super::{Connection, ESTABLISHED, HALF_CLOSED, Of, RESET, WAITING};

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
