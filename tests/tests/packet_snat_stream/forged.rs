//! Segments of somebody who knows addresses and ports, and not what the hosts have said.

use flannel_common::snat;
use flannel_common::snat::{Entry, NANOS};
use flannel_tests::packet::outside::{ACK, FIN_ACK, RST, SYN, SYN_ACK};
use rstest::rstest;

use super::{Connection, ESTABLISHED, Of, SIDES, guesses};

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
