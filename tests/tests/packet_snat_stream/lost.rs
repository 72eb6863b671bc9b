//! Segments that the node never sees, or sees longer than they are.

use flannel_common::snat::LEAP;
use flannel_tests::packet::line::Side;
use flannel_tests::packet::outside::{ACK, FIN_ACK, Plain, RST};
use rstest::rstest;

use super::{Connection, ESTABLISHED, HALF_CLOSED, Of, RESET};

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
