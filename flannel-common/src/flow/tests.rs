use super::Direction::{Rx, Tx};
use super::*;
use crate::change::Change;
use crate::header::PROTO_UDP;
use crate::transport::Control;
use proptest::prelude::*;

const EPOCH: u32 = 7;
/// Close to the wrap, so that every test crosses it.
const START: Tick = u32::MAX - ticks(3_000);

fn fresh() -> Flow {
    Flow::zeroed()
}

fn at(ms: u32) -> Tick {
    START.wrapping_add(ticks(ms))
}

/// A pod's port.
const PORT: u32 = 7;

/// A header with this TOS byte.
fn tos(tos: u8) -> Ip {
    Ip {
        tos,
        ..Ip::zeroed()
    }
}

fn proof(epoch: u32) -> Proof {
    Proof {
        opener: NOBODY.into(),
        epoch,
        port: PORT,
        change: Change::NONE,
    }
}

fn pass(flow: &mut Flow, direction: Direction, now: Tick) {
    assert!(flow.note_passed(direction, now, &proof(EPOCH)));
}

/// In either direction.
fn is_proven(flow: &Flow, now: Tick) -> bool {
    [Tx, Rx]
        .into_iter()
        .any(|direction| flow.decide(direction, now, EPOCH, false) != Step::Stack)
}

fn both_verified() -> Flow {
    let mut flow = fresh();
    pass(&mut flow, Tx, START);
    pass(&mut flow, Rx, START);
    flow
}

#[test]
fn nothing_is_proven_at_first() {
    assert_eq!(fresh().decide(Tx, START, 0, false), Step::Stack);
    assert_eq!(fresh().decide(Rx, START, 0, false), Step::Stack);
}

#[test]
fn one_direction_proves_itself_only() {
    let mut flow = fresh();
    pass(&mut flow, Tx, START);
    assert_eq!(flow.decide(Tx, START, EPOCH, false), Step::Fast);
    assert_eq!(flow.decide(Tx, START, EPOCH, true), Step::Stack);
    assert_eq!(flow.decide(Rx, START, EPOCH, false), Step::Stack);
}

#[test]
fn both_directions_make_a_tcp_flow_fast() {
    let flow = both_verified();
    assert_eq!(flow.decide(Tx, START, EPOCH, true), Step::Fast);
    assert_eq!(flow.decide(Rx, START, EPOCH, true), Step::Fast);
}

#[test]
fn after_five_seconds_one_packet_renews() {
    let mut flow = both_verified();
    assert_eq!(flow.decide(Tx, at(4_900), EPOCH, true), Step::Fast);
    assert_eq!(flow.decide(Tx, at(5_100), EPOCH, true), Step::Refresh);
    flow.note_probe(Tx, at(5_100));
    assert_eq!(
        flow.decide(Tx, at(5_101), EPOCH, true),
        Step::Behind,
        "until it has come out"
    );
    pass(&mut flow, Tx, at(5_102));
    assert_eq!(flow.decide(Tx, at(5_103), EPOCH, true), Step::Fast);
    assert_eq!(flow.decide(Tx, at(10_000), EPOCH, true), Step::Fast);
}

#[test]
fn behind_a_renewal_that_is_dropped_all_take_the_stack() {
    let mut flow = both_verified();
    flow.note_probe(Tx, at(5_100));
    for later in [5_101, 5_160, 6_200, 14_900] {
        assert_eq!(flow.decide(Tx, at(later), EPOCH, true), Step::Behind);
    }
    assert_eq!(flow.decide(Rx, at(6_200), EPOCH, true), Step::Refresh);
    assert_eq!(
        flow.decide(Tx, at(15_100), EPOCH, true),
        Step::Stack,
        "15 s without renewal"
    );
}

#[test]
fn tcp_ends_when_either_direction_ends() {
    let mut flow = both_verified();
    pass(&mut flow, Tx, at(14_000));
    assert_eq!(flow.decide(Tx, at(15_100), EPOCH, true), Step::Stack);
    assert_eq!(flow.decide(Tx, at(15_100), EPOCH, false), Step::Fast);
}

#[test]
fn a_new_epoch_ends_every_proof() {
    let mut flow = both_verified();
    assert_eq!(flow.decide(Tx, START, EPOCH + 1, false), Step::Stack);
    flow.note_passed(Tx, START, &proof(EPOCH + 1));
    assert_eq!(flow.decide(Tx, START, EPOCH + 1, false), Step::Fast);
    assert_eq!(
        flow.decide(Tx, START, EPOCH + 1, true),
        Step::Stack,
        "each half on its own"
    );
}

#[test]
fn fin_and_rst_end_the_flow_and_the_last_acks_do_not_revive_it() {
    let mut flow = both_verified();
    flow.close(at(10));
    assert!(!is_proven(&flow, at(10)));
    assert!(!flow.note_passed(Tx, at(11), &proof(EPOCH)));
    assert_eq!(flow.decide(Tx, at(11), EPOCH, false), Step::Stack);
}

#[test]
fn a_half_closed_flow_may_prove_itself_again_later() {
    let mut flow = both_verified();
    flow.close(START);
    pass(&mut flow, Tx, at(15_100));
}

#[test]
fn syn_forgets_everything() {
    let mut flow = both_verified();
    flow.close(START);
    flow.reopen();
    assert!(!is_proven(&flow, START) && !flow.is_closing(START));
}

#[test]
fn the_answer_to_a_syn_forgets_everything_too() {
    let mut flow = both_verified();
    flow.close(START);
    assert!(flow.control(Control::Answer, at(10)));
    assert!(!is_proven(&flow, at(10)));
    pass(&mut flow, Rx, at(10));
    assert_eq!(flow.decide(Rx, at(11), EPOCH, true), Step::Stack);
}

#[test]
fn a_flow_is_its_pod_s_whoever_else_sends_in_its_name() {
    let mut flow = both_verified();
    let other = Proof {
        port: PORT + 1,
        ..proof(EPOCH)
    };
    assert!(flow.is_from(PORT, &tos(0), 0) && !flow.is_from(PORT + 1, &tos(0), 0));
    assert!(!flow.note_passed(Tx, at(10), &other));
    assert!(flow.is_from(PORT, &tos(0), 0));
    assert!(
        flow.note_passed(Tx, at(15_100), &other),
        "nobody else sends"
    );
    assert!(flow.is_from(PORT + 1, &tos(0), 0));
    let moved = Proof {
        port: PORT,
        ..proof(EPOCH + 1)
    };
    assert!(flow.note_passed(Tx, at(15_110), &moved), "the pod moved");
}

#[test]
fn nobody_else_ends_a_flow() {
    for control in [Control::Open, Control::Answer, Control::Close] {
        let mut flow = both_verified();
        assert!(flow.control_from(control, PORT + 1, at(10), EPOCH));
        assert_eq!(flow, both_verified());
        assert!(flow.control_from(control, PORT, at(10), EPOCH));
        assert!(!is_proven(&flow, at(10)));

        let mut old = both_verified();
        assert!(old.control_from(control, PORT + 1, at(15_100), EPOCH));
        assert_eq!(old.tx.verified, 0, "nobody's any more");
        let mut moved = both_verified();
        assert!(moved.control_from(control, PORT + 1, at(10), EPOCH + 1));
        assert_eq!(moved.tx.verified, 0);
    }
    assert!(!both_verified().control_from(Control::None, PORT + 1, at(10), EPOCH));
}

#[test]
fn the_bridge_says_where_a_flow_goes() {
    let mut flow = both_verified();
    let other = Proof {
        port: PORT + 1,
        ..proof(EPOCH)
    };
    assert!(
        !flow.note_passed(Rx, at(10), &other),
        "while it is heard by its own"
    );
    assert_eq!(flow.rx.port, PORT);
    let then = at(16_000);
    assert!(flow.note_passed(Rx, then, &other));
    assert_eq!(flow.rx.port, PORT + 1);
    pass(&mut flow, Tx, then);
    assert_eq!(flow.rx.port, 0, "another's");
    assert_eq!(flow.decide(Rx, then, EPOCH, false), Step::Stack);
    assert_eq!(flow.decide(Tx, then, EPOCH, false), Step::Fast);
    pass(&mut flow, Rx, then);
    assert_eq!(flow.decide(Rx, then, EPOCH, false), Step::Fast);
    flow.note_flooded();
    assert_eq!(flow.rx.port, 0);
    assert_eq!(flow.decide(Rx, then, EPOCH, false), Step::Stack);
    assert_eq!(flow.decide(Tx, then, EPOCH, false), Step::Fast);
}

#[test]
fn what_arrives_for_a_pod_that_is_not_heard_is_looked_at_often() {
    let mut flow = fresh();
    pass(&mut flow, Rx, START);
    assert_eq!(flow.decide(Rx, at(490), EPOCH, false), Step::Fast);
    assert_eq!(flow.decide(Rx, at(510), EPOCH, false), Step::Refresh);
    pass(&mut flow, Tx, at(520));
    assert_eq!(flow.decide(Rx, at(530), EPOCH, false), Step::Fast);
    let mut sends = fresh();
    pass(&mut sends, Tx, START);
    assert_eq!(sends.decide(Tx, at(4_000), EPOCH, false), Step::Fast);
}

#[test]
fn only_packets_like_the_one_that_proved_it_are_of_the_flow() {
    let mut flow = fresh();
    let change = Change {
        mark_in: 5,
        tos_in: 0xb8,
        ..Change::NONE
    };
    let marked = Proof {
        change,
        ..proof(EPOCH)
    };
    assert!(flow.note_passed(Tx, START, &marked));
    assert!(flow.is_from(PORT, &tos(0xb8), 5) && flow.is_from(PORT, &tos(0xbb), 5));
    assert!(!flow.is_from(PORT, &tos(0xb8), 0) && !flow.is_from(PORT, &tos(0), 5));
}

#[test]
fn what_comes_right_behind_a_renewal_does_not_overtake_it() {
    let mut flow = both_verified();
    let late = at(5_100);
    assert_eq!(flow.decide(Rx, late, EPOCH, true), Step::Refresh);
    flow.note_probe(Rx, late);
    assert_eq!(flow.decide(Rx, late, EPOCH, true), Step::Behind);
    pass(&mut flow, Rx, at(5_110));
    assert_eq!(flow.decide(Rx, at(5_110), EPOCH, true), Step::Fast);
}

/// Conntrack may have forgotten the flow, and takes the first that it sees for who opens it.
#[test]
fn who_answers_is_looked_at_behind_who_opened() {
    for (opener, first, second) in [(POD, Tx, Rx), (PEER, Rx, Tx)] {
        let mut flow = fresh();
        let opened = Proof {
            opener: opener.into(),
            ..proof(EPOCH)
        };
        assert!(flow.note_passed(first, START, &opened));
        // The answer says the contrary, and is not asked.
        let answered = Proof {
            opener: (POD + PEER - opener).into(),
            ..proof(EPOCH)
        };
        assert!(flow.note_passed(second, at(3), &answered));
        let late = at(5_200);
        assert_eq!(flow.decide(second, late, EPOCH, true), Step::Fast);
        assert_eq!(flow.decide(first, late, EPOCH, true), Step::Refresh);
        flow.note_probe(first, late);
        for later in [5_400, 7_000, 14_000] {
            assert_eq!(flow.decide(second, at(later), EPOCH, true), Step::Fast);
            assert_eq!(flow.decide(first, at(later), EPOCH, true), Step::Behind);
        }
        assert!(flow.note_passed(first, at(14_100), &answered));
        assert_eq!(flow.decide(second, at(14_110), EPOCH, true), Step::Refresh);

        // The answer was proven first, and both are due.
        let mut flow = fresh();
        assert!(flow.note_passed(first, START, &opened));
        assert!(flow.note_passed(second, at(1), &answered));
        assert!(flow.note_passed(first, at(2), &opened));
        assert_eq!(flow.decide(second, at(5_300), EPOCH, true), Step::Fast);
        assert_eq!(flow.decide(first, at(5_300), EPOCH, true), Step::Refresh);

        // Who opened is silent.
        let mut flow = fresh();
        assert!(flow.note_passed(first, START, &opened));
        assert!(flow.note_passed(second, at(300), &answered));
        assert_eq!(
            flow.decide(second, at(5_700), EPOCH, false),
            Step::Fast,
            "it may speak yet"
        );
        assert_eq!(flow.decide(second, at(6_100), EPOCH, false), Step::Refresh);
    }
}

/// conntrack has forgotten it, too; not so a TCP connection, of which the middle does not tell.
#[test]
fn after_a_long_silence_who_speaks_first_opens() {
    let by = |opener: u8| Proof {
        opener: opener.into(),
        ..proof(EPOCH)
    };
    let opened = || {
        let mut flow = fresh();
        assert!(flow.note_passed(Tx, START, &by(POD)));
        flow
    };
    for (later, second, opener) in [
        (119_000, PEER, POD),
        (121_000, PEER, PEER),
        (121_000, NOBODY, POD),
    ] {
        let mut flow = opened();
        assert!(flow.note_passed(Rx, at(later), &by(second)));
        assert_eq!(flow.opener, opener, "{later} {second}");
    }
    let mut flow = opened();
    assert!(flow.note_passed(Rx, at(100_000), &by(PEER)));
    assert!(flow.note_passed(Rx, at(130_000), &by(PEER)));
    assert_eq!(flow.opener, POD, "it was not silent");
    assert_eq!(by(PEER).of_outside(), by(POD));
}

/// After half of all ticks an old moment looks like one to come.
#[test]
fn what_was_renewed_long_ago_waits_for_nothing() {
    let mut flow = both_verified();
    flow.note_probe(Tx, at(5_100));
    pass(&mut flow, Tx, at(5_200));
    flow.close(at(6_000));
    let later = at(6_000).wrapping_add(3 << 30);
    flow.reopen();
    pass(&mut flow, Tx, later);
    assert_eq!(flow.decide(Tx, later, EPOCH, false), Step::Fast);
}

#[test]
fn whose_flow_it_is_is_told_by_the_first_packet() {
    let segment = |flags| {
        let mut l4 = [0; 16];
        l4[13] = flags;
        l4
    };
    const TCP: u8 = crate::header::PROTO_TCP;
    assert_eq!(opener(PROTO_UDP, &segment(0x12), Tx), POD.into());
    assert_eq!(opener(PROTO_UDP, &segment(0), Rx), PEER.into());
    assert_eq!(opener(TCP, &segment(0x12), Tx), PEER.into());
    assert_eq!(opener(TCP, &segment(0x52), Rx), POD.into(), "with ECE");
    assert_eq!(opener(TCP, &segment(0x10), Rx), NOBODY.into());
    let mut flow = both_verified();
    assert_eq!(flow.opener, NOBODY);
    flow.reopen();
    let answer = Proof {
        opener: POD.into(),
        ..proof(EPOCH)
    };
    assert!(flow.note_passed(Rx, at(9), &answer));
    assert_eq!(flow.opener, POD, "a new connection of the same tuple");
}

/// What the bridge sends to all its ports came out of the only other one.
#[test]
fn what_a_pod_sends_shows_that_another_port_is_not_its() {
    let mut flow = fresh();
    let other = Proof {
        port: PORT + 1,
        ..proof(EPOCH)
    };
    assert!(flow.note_passed(Rx, START, &other));
    assert_eq!(flow.decide(Rx, START, EPOCH, false), Step::Fast);
    pass(&mut flow, Tx, at(2));
    assert_eq!(flow.decide(Rx, at(3), EPOCH, false), Step::Stack);
    pass(&mut flow, Rx, at(4));
    pass(&mut flow, Tx, at(5));
    assert_eq!(flow.decide(Rx, at(6), EPOCH, false), Step::Fast);
}

#[test]
fn bulk_lasts_a_second() {
    let mut flow = fresh();
    assert!(!flow.is_bulk(START));
    flow.bulk = START;
    assert!(flow.is_bulk(at(900)));
    assert!(!flow.is_bulk(at(1_100)));
}

#[test]
fn a_tick_is_never_never() {
    assert_ne!(tick(0), 0);
    assert_ne!(tick(u64::from(u32::MAX) << 20 | 1 << 52), 0);
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// By this port.
    Passed(bool, u32),
    Flooded,
    Close,
    Reopen,
    Epoch,
    Wait(u32),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (any::<bool>(), 1u32..3).prop_map(|(rx, port)| Event::Passed(rx, port)),
        Just(Event::Flooded),
        Just(Event::Close),
        Just(Event::Reopen),
        Just(Event::Epoch),
        (0u32..20_000).prop_map(Event::Wait),
    ];
    proptest::collection::vec(event, 0..60)
}

proptest! {
    /// Whatever happens: fast only if a packet of this direction passed both hooks in this epoch, in the
    /// last 15 seconds, by this port, with no FIN, RST or SYN since.
    #[test]
    fn fast_implies_a_recent_proof(events in events()) {
        let mut flow = fresh();
        let (mut now, mut epoch) = (START | 1, EPOCH);
        let mut proven: [Option<(Tick, u32, u32)>; 2] = [None; 2];
        for event in events {
            match event {
                Event::Passed(rx, port) => {
                    let proof = Proof { port, ..proof(epoch) };
                    let direction = if rx { Rx } else { Tx };
                    if flow.note_passed(direction, now, &proof) {
                        proven[usize::from(rx)] = Some((now, epoch, port));
                    }
                }
                Event::Flooded => {
                    flow.note_flooded();
                    proven[1] = None;
                }
                Event::Close => {
                    flow.close(now);
                    proven = [None; 2];
                }
                Event::Reopen => {
                    flow.reopen();
                    proven = [None; 2];
                }
                Event::Epoch => epoch += 1,
                Event::Wait(ms) => now = now.wrapping_add(ticks(ms)) | 1,
            }
            for (direction, index) in [(Tx, 0), (Rx, 1)] {
                if flow.decide(direction, now, epoch, false) != Step::Stack {
                    let (since, in_epoch, port) = proven[index].expect("fast without proof");
                    prop_assert!(now.wrapping_sub(since) < LIFETIME);
                    prop_assert_eq!(in_epoch, epoch);
                    let half = if direction == Tx { &flow.tx } else { &flow.rx };
                    prop_assert_eq!(half.port, port);
                }
                if flow.decide(direction, now, epoch, true) != Step::Stack {
                    prop_assert!(proven[0].is_some() && proven[1].is_some());
                }
            }
        }
    }
}

const MAC: Mac = [2, 0, 0, 0, 0, 5];

/// A pod that the bridge sends to port 7.
fn pod() -> Flow {
    let mut pod = fresh();
    pod.note_probe(Rx, START);
    assert!(pod.is_chosen(PORT, START));
    pod.pod_mac = MAC;
    pod.note_port(PORT, START, EPOCH);
    pod
}

#[test]
fn the_bridge_s_choice_holds_for_a_second() {
    let pod = pod();
    let step = |ms| pod.decide_at_bridge(MAC, at(ms), EPOCH);
    assert_eq!(step(0), Step::Fast);
    assert_eq!(step(490), Step::Fast);
    assert_eq!(step(510), Step::Refresh);
    assert_eq!(step(1_010), Step::Stack);
    assert_eq!(pod.decide_at_bridge(MAC, START, EPOCH + 1), Step::Stack);
    let other = [2, 0, 0, 0, 0, 6];
    assert_eq!(pod.decide_at_bridge(other, START, EPOCH), Step::Stack);
}

#[test]
fn one_packet_at_a_time_looks_at_the_choice_anew() {
    let mut pod = pod();
    pod.note_probe(Rx, at(510));
    assert_eq!(pod.decide_at_bridge(MAC, at(520), EPOCH), Step::Fast);
    assert_eq!(pod.decide_at_bridge(MAC, at(570), EPOCH), Step::Refresh);
}

#[test]
fn nothing_is_chosen_that_nobody_sent() {
    let mut pod = fresh();
    assert!(!pod.is_chosen(7, START));
    pod.note_probe(Rx, START);
    assert!(!pod.is_chosen(7, at(1_100)), "another frame");
}

#[test]
fn two_ports_are_none() {
    let mut pod = pod();
    pod.note_probe(Rx, at(510));
    for port in [8, 9, 7] {
        assert!(!pod.is_chosen(port, at(510)));
    }
    assert_eq!(pod.decide_at_bridge(MAC, at(510), EPOCH), Step::Stack);
}
