use super::Direction::{Rx, Tx};
use super::*;
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

fn pass(flow: &mut Flow, direction: Direction, now: Tick) {
    flow.note_seen(direction, now);
    assert!(flow.note_passed(direction, now, EPOCH));
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
fn seen_alone_proves_nothing() {
    let mut flow = fresh();
    flow.note_seen(Tx, START);
    assert_eq!(flow.decide(Tx, START, EPOCH, false), Step::Stack);
}

#[test]
fn passed_alone_proves_nothing() {
    let mut flow = fresh();
    assert!(
        !flow.note_passed(Tx, START, EPOCH),
        "a translated tuple comes out, but never went in"
    );
    assert_eq!(flow.decide(Tx, START, EPOCH, false), Step::Stack);
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
fn a_packet_that_took_too_long_is_another_packet() {
    let mut flow = fresh();
    flow.note_seen(Tx, START);
    assert!(!flow.note_passed(Tx, at(1_100), EPOCH));
}

#[test]
fn after_five_seconds_one_packet_renews() {
    let mut flow = both_verified();
    assert_eq!(flow.decide(Tx, at(4_900), EPOCH, true), Step::Fast);
    assert_eq!(flow.decide(Tx, at(5_100), EPOCH, true), Step::Refresh);
    flow.note_seen(Tx, at(5_100));
    assert_eq!(
        flow.decide(Tx, at(5_101), EPOCH, true),
        Step::Fast,
        "the others go on"
    );
    assert!(flow.note_passed(Tx, at(5_102), EPOCH));
    assert_eq!(flow.decide(Tx, at(10_000), EPOCH, true), Step::Fast);
}

#[test]
fn a_renewal_that_is_dropped_is_tried_again_and_then_ends_the_flow() {
    let mut flow = both_verified();
    flow.note_seen(Tx, at(5_100));
    assert_eq!(flow.decide(Tx, at(6_200), EPOCH, true), Step::Refresh);
    flow.note_seen(Tx, at(6_200));
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
    flow.note_seen(Tx, START);
    flow.note_passed(Tx, START, EPOCH + 1);
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
    flow.note_seen(Tx, at(11));
    assert!(!flow.note_passed(Tx, at(11), EPOCH));
    assert_eq!(flow.decide(Tx, at(11), EPOCH, false), Step::Stack);
}

#[test]
fn a_half_closed_flow_may_prove_itself_again_later() {
    let mut flow = both_verified();
    flow.close(START);
    flow.note_seen(Tx, at(15_100));
    assert!(flow.note_passed(Tx, at(15_100), EPOCH));
}

#[test]
fn syn_forgets_everything() {
    let mut flow = both_verified();
    flow.close(START);
    flow.reopen();
    assert!(!is_proven(&flow, START) && !flow.is_closing(START));
    assert!(!flow.may_pass(Tx, START) && !flow.may_pass(Rx, START));
}

#[test]
fn the_answer_to_a_syn_may_prove_its_own_direction_only() {
    let mut flow = both_verified();
    flow.close(START);
    flow.answer(Rx, at(10));
    assert!(!is_proven(&flow, at(10)));
    assert!(!flow.note_passed(Tx, at(10), EPOCH));
    assert!(flow.note_passed(Rx, at(10), EPOCH));
    assert_eq!(flow.decide(Rx, at(11), EPOCH, true), Step::Stack);
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
    Seen(bool),
    Passed(bool),
    Close,
    Reopen,
    Answer(bool),
    Epoch,
    Wait(u32),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        any::<bool>().prop_map(Event::Seen),
        any::<bool>().prop_map(Event::Passed),
        Just(Event::Close),
        Just(Event::Reopen),
        any::<bool>().prop_map(Event::Answer),
        Just(Event::Epoch),
        (0u32..20_000).prop_map(Event::Wait),
    ];
    proptest::collection::vec(event, 0..60)
}

proptest! {
    /// Whatever happens: fast only if a packet of this direction passed both hooks in this epoch, in the
    /// last 15 seconds, with no FIN, RST or SYN since.
    #[test]
    fn fast_implies_a_recent_proof(events in events()) {
        let mut flow = fresh();
        let (mut now, mut epoch) = (START | 1, EPOCH);
        let mut seen: [Option<Tick>; 2] = [None; 2];
        let mut proof: [Option<(Tick, u32)>; 2] = [None; 2];
        for event in events {
            match event {
                Event::Seen(rx) => {
                    flow.note_seen(if rx { Rx } else { Tx }, now);
                    seen[usize::from(rx)] = Some(now);
                }
                Event::Passed(rx) => {
                    if flow.note_passed(if rx { Rx } else { Tx }, now, epoch) {
                        let went_in = seen[usize::from(rx)].expect("passed without having been seen");
                        prop_assert!(now.wrapping_sub(went_in) < ticks(1_000));
                        proof[usize::from(rx)] = Some((now, epoch));
                    }
                }
                Event::Close => {
                    flow.close(now);
                    proof = [None; 2];
                }
                Event::Reopen => {
                    flow.reopen();
                    proof = [None; 2];
                    seen = [None; 2];
                }
                Event::Answer(rx) => {
                    flow.answer(if rx { Rx } else { Tx }, now);
                    proof = [None; 2];
                    seen = [None; 2];
                    seen[usize::from(rx)] = Some(now);
                }
                Event::Epoch => epoch += 1,
                Event::Wait(ms) => now = now.wrapping_add(ticks(ms)) | 1,
            }
            for (direction, index) in [(Tx, 0), (Rx, 1)] {
                if flow.decide(direction, now, epoch, false) != Step::Stack {
                    let (since, in_epoch) = proof[index].expect("fast without proof");
                    prop_assert!(now.wrapping_sub(since) < LIFETIME);
                    prop_assert_eq!(in_epoch, epoch);
                }
                if flow.decide(direction, now, epoch, true) != Step::Stack {
                    prop_assert!(proof[0].is_some() && proof[1].is_some());
                }
            }
        }
    }
}

const MAC: Mac = [2, 0, 0, 0, 0, 5];

/// A pod that the bridge sends to port 7.
fn pod() -> Flow {
    let mut pod = fresh();
    pod.note_seen(Rx, START);
    assert!(pod.is_chosen(7, START));
    pod.port = 7;
    pod.pod_mac = MAC;
    assert!(pod.note_passed(Rx, START, EPOCH));
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
    pod.note_seen(Rx, at(510));
    assert_eq!(pod.decide_at_bridge(MAC, at(520), EPOCH), Step::Fast);
    assert_eq!(pod.decide_at_bridge(MAC, at(570), EPOCH), Step::Refresh);
}

#[test]
fn nothing_is_chosen_that_nobody_sent() {
    let mut pod = fresh();
    assert!(!pod.is_chosen(7, START));
    pod.note_seen(Rx, START);
    assert!(!pod.is_chosen(7, at(1_100)), "another frame");
}

#[test]
fn two_ports_are_none() {
    let mut pod = pod();
    pod.note_seen(Rx, at(510));
    for port in [8, 9, 7] {
        assert!(!pod.is_chosen(port, at(510)));
    }
    assert_eq!(pod.decide_at_bridge(MAC, at(510), EPOCH), Step::Stack);
}
