//! The SNAT decisions against a reference model: any sequence of packets, evictions, pauses and sweeps.

mod flow;
mod map;
mod reference;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use flannel_common::snat::{
    Endpoint, KIND_LEAVE, KIND_OWN, NANOS, Node, Outbound, Ports, Refused, Seen, Table as _,
    WAY_IN, WAY_OUT, Whose, came_in, inbound, note, outbound,
};
use proptest::prelude::*;

use flow::{ACK, Event, Flow, PORTS, SYN, Shape, TCP, UDP, US, event, flags, flow, pod};
use map::Map;
use reference::Reference;

const MOVED: [u8; 4] = [192, 168, 0, 2];

fn sent(
    map: &Map,
    reference: &mut Reference,
    flow: Flow,
    shape: Shape,
    whose: Whose,
) -> Result<(), TestCaseError> {
    let packet = flow.packet(WAY_OUT, shape);
    let before = reference.fresh(&flow);
    let noted = map
        .get(&packet.key)
        .filter(|entry| entry.kind == KIND_LEAVE);
    let halves = [packet.key, packet.key.other_half(flow.source())];
    let held = halves.iter().any(|key| map.get(key).is_some());
    let outcome = outbound(map, &reference.node(), &packet, whose, || false);
    if let Some(before) = before {
        let restarts = before == Outbound::Leave && whose == Whose::Pod && packet.is_syn();
        if !restarts {
            prop_assert_eq!(outcome, Ok(before), "a live flow is let out as before");
        } else if outcome.is_err() {
            // What came in was over with the SYN; for what begins instead there is no port.
            reference.whole.remove(&flow);
        }
    }
    if outcome.is_ok() {
        reference.flags_seen(&flow, shape.flags);
    }
    match outcome {
        Ok(Outbound::Translate(to)) => {
            // Both halves are there and name each other.
            prop_assert_eq!(to.addr, reference.local);
            prop_assert!(PORTS.has(to.port));
            let back = packet.key.other_half(to);
            prop_assert!(map.pairs(&packet.key, to), "out half");
            prop_assert!(map.pairs(&back, flow.source()), "in half");
            let seen = flow.seen_as(to);
            reference.takes_over(seen, flow, Outbound::Translate(to))?;
            reference.goes_on(flow, Outbound::Translate(to), shape.flags, held);
            reference.sent.push(seen);
        }
        Ok(Outbound::Leave) if whose == Whose::Own => {
            let key = packet.key.other_half(flow.source());
            prop_assert!(!packet.is_worth_noting() || map.get(&key).is_some());
            if map.get(&key).is_some_and(|entry| entry.kind == KIND_OWN) {
                reference.takes_over(flow, flow, Outbound::Translate(flow.source()))?;
                reference.goes_on(flow, Outbound::Leave, shape.flags, held);
                reference.sent.push(flow);
            }
        }
        Ok(Outbound::Leave) => {
            prop_assert!(
                map.get(&packet.key).is_some(),
                "only a noted connection leaves as it is"
            );
            let goes_on = noted.is_some_and(|entry| Seen(entry.seen).goes_on());
            prop_assert!(!packet.is_syn() || goes_on, "a SYN is no reply");
            let silent = reference.now - reference.noted[&flow];
            prop_assert!(flow.proto != UDP || silent <= 120 * NANOS, "long over");
            reference.noted.insert(flow, reference.now);
            reference.goes_on(flow, Outbound::Leave, shape.flags, held);
        }
        Err(Refused::NoFlow) => prop_assert!(!packet.may_open()),
        Err(Refused::Exhausted) => {
            for port in PORTS.min..=PORTS.max {
                let to = Endpoint {
                    addr: reference.local,
                    port: port.to_be_bytes(),
                };
                prop_assert!(
                    map.get(&packet.key.other_half(to)).is_some(),
                    "port {} is free",
                    port
                );
            }
        }
        Err(Refused::Full) => prop_assert!(false, "the model is never full"),
    }
    Ok(())
}

fn replied(
    map: &Map,
    reference: &mut Reference,
    nth: usize,
    shape: Shape,
) -> Result<(), TestCaseError> {
    let Some(at) = nth.checked_rem(reference.sent.len()) else {
        return Ok(());
    };
    let seen = reference.sent[at];
    let flow = reference.owner[&seen];
    let packet = seen.packet(WAY_IN, shape);
    let whom = inbound(map, reference.now, &packet).map(|half| half.target());
    reference.flags_seen(&flow, shape.flags);
    if let Some(whom) = whom {
        prop_assert_eq!(whom, flow.source(), "a reply for another");
        prop_assert!(map.pairs(&packet.key, whom), "in half");
        let out = packet.key.other_half(whom);
        prop_assert!(map.pairs(&out, packet.key.destination()), "out half");
    }
    match reference.fresh(&flow) {
        Some(Outbound::Translate(to)) if flow.seen_as(to) == seen => {
            prop_assert_eq!(whom, Some(flow.source()), "a live flow gets its reply");
        }
        Some(Outbound::Leave) if flow == seen => prop_assert_eq!(whom, None, "the node's own"),
        _ => {}
    }
    Ok(())
}

fn run(events: Vec<Event>) -> Result<(), TestCaseError> {
    let map = Map::default();
    let mut reference = Reference::new();
    for event in events {
        match event {
            Event::Send(flow, shape) => sent(&map, &mut reference, flow, shape, Whose::Pod)?,
            Event::Own(flow, shape) => {
                let flow = Flow {
                    src: (reference.local, flow.src.1),
                    ..flow
                };
                sent(&map, &mut reference, flow, shape, Whose::Own)?;
            }
            Event::Reply(nth, shape) => replied(&map, &mut reference, nth, shape)?,
            Event::Arrive(flow, shape) => {
                let before = reference.fresh(&flow);
                let held = map.get(&flow.out()).is_some();
                let packet = flow.packet(WAY_IN, shape);
                if note(&map, reference.now, &packet) {
                    let (key, entry) = came_in(reference.now, &packet);
                    map.claim(&key, &entry);
                }
                reference.noted.insert(flow, reference.now);
                if map
                    .get(&flow.out())
                    .is_some_and(|entry| entry.kind == KIND_LEAVE)
                {
                    if let Some(Outbound::Translate(_)) = before {
                        // Only a flow picked up in the middle and never answered gives way.
                        prop_assert!(flow.proto == TCP && shape.flags & ACK != 0);
                    }
                    reference.goes_on(flow, Outbound::Leave, shape.flags, held);
                }
            }
            Event::Evict(nth) => {
                if let Some(key) = map.evict(nth) {
                    reference.evicted(&key);
                }
            }
            Event::Pause(seconds) => reference.now += seconds * NANOS,
            Event::Sweep => map.sweep(reference.now),
            Event::Move => {
                reference.local = if reference.local == US { MOVED } else { US };
                reference.whole.clear();
            }
        }
        let live: Vec<Flow> = reference
            .whole
            .keys()
            .filter_map(|flow| match reference.fresh(flow)? {
                Outbound::Translate(to) => Some(flow.seen_as(to)),
                Outbound::Leave if flow.src.0 == reference.local => Some(*flow),
                Outbound::Leave => None,
            })
            .collect();
        let distinct: BTreeSet<_> = live.iter().collect();
        prop_assert_eq!(
            distinct.len(),
            live.len(),
            "two live flows share a translated tuple"
        );
    }
    Ok(())
}

/// A range of one port, which a flow has that is over, and two pods that want it at the same moment on two CPUs: whatever
/// each of them has seen when the other comes between, one alone gets it.
#[test]
fn one_alone_takes_over_from_a_flow_that_is_over() {
    let [dead, first, second] = [0, 1, 2].map(|pod| Flow {
        src: ([10, 244, 1, pod], 40_000),
        dst: ([198, 51, 100, 9], 443),
        proto: TCP,
    });
    let ports = Ports {
        min: 50_000,
        max: 50_000,
    };
    let node = |now| Node {
        local: US,
        device: 2,
        ports,
        now,
    };
    let (then, now) = (node(NANOS), node(1_000_000 * NANOS));
    let sends = |map: &Map, node: &Node, flow: Flow| {
        outbound(map, node, &flow.packet(WAY_OUT, SYN), Whose::Pod, || false)
    };
    let mut between = 0;
    for nth in 0..60 {
        let map = Map::default();
        assert!(sends(&map, &then, dead).is_ok());
        let theirs = Rc::new(Cell::new(None));
        let kept = Rc::clone(&theirs);
        map.before(nth, move |map| kept.set(Some(sends(map, &now, second))));
        let ours = sends(&map, &now, first);
        map.in_peace();
        let Some(theirs) = theirs.get() else {
            continue;
        };
        between += 1;
        let winners = [(first, ours), (second, theirs)]
            .into_iter()
            .filter(|(_, got)| got.is_ok());
        let winners: Vec<Flow> = winners.map(|(flow, _)| flow).collect();
        assert!(
            winners.len() <= 1,
            "both left under one port, at step {nth}"
        );
        for flow in winners {
            let to = Endpoint {
                addr: US,
                port: 50_000_u16.to_be_bytes(),
            };
            let reply = flow.seen_as(to).packet(WAY_IN, SYN | ACK);
            let half = inbound(&map, now.now, &reply).map(|half| half.target());
            assert_eq!(half, Some(flow.source()), "at step {nth}");
        }
    }
    assert!(between > 20, "{between} steps are too few");
}

/// The agent's sweep comes between, and the other way round: the new flow keeps what it took.
#[test]
fn nobody_sweeps_what_was_just_taken_over() {
    let [dead, first] = [0, 1].map(|pod| Flow {
        src: ([10, 244, 1, pod], 40_000),
        dst: ([198, 51, 100, 9], 443),
        proto: TCP,
    });
    let ports = Ports {
        min: 50_000,
        max: 50_000,
    };
    let node = |now| Node {
        local: US,
        device: 2,
        ports,
        now,
    };
    let (then, now) = (node(NANOS), node(1_000_000 * NANOS));
    let sends = |map: &Map, node: &Node, flow: Flow| {
        outbound(map, node, &flow.packet(WAY_OUT, SYN), Whose::Pod, || false)
    };
    for nth in 0..60 {
        for sweeps_first in [true, false] {
            let map = Map::default();
            assert!(sends(&map, &then, dead).is_ok());
            let kept = Rc::new(Cell::new(None));
            let took = Rc::clone(&kept);
            if sweeps_first {
                map.before(nth, move |map| took.set(Some(sends(map, &now, first))));
                map.sweep(now.now);
            } else {
                map.before(nth, move |map| map.sweep(now.now));
                kept.set(Some(sends(&map, &now, first)));
            }
            map.in_peace();
            let Some(Ok(Outbound::Translate(to))) = kept.get() else {
                continue;
            };
            // Before it sends again: the reply is what comes next.
            let back = first.out().other_half(to);
            assert!(
                map.pairs(&back, first.source()),
                "at step {nth}, {sweeps_first}"
            );
            assert!(map.pairs(&first.out(), to), "at step {nth}, {sweeps_first}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_the_reference(events in proptest::collection::vec(event(), 1..120)) {
        run(events)?;
    }

    /// Another CPU handles a whole packet, or the LRU evicts, between any two steps of a decision.
    #[test]
    fn a_reply_never_reaches_another_whatever_comes_between(
        before in proptest::collection::vec((flow(pod()), flags()), 0..12),
        first in flow(pod()),
        second in flow(pod()),
        at in 0..12u32,
        what in 0..3u8,
        evicted: usize,
    ) {
        let map = Map::default();
        let node = Node { local: US, device: 2, ports: PORTS, now: 1_000_000 * NANOS };
        for (flow, flags) in before {
            let _ = outbound(&map, &node, &flow.packet(WAY_OUT, flags), Whose::Pod, || false);
        }
        let theirs = Rc::new(Cell::new(None));
        let kept = Rc::clone(&theirs);
        map.before(at, move |map| match what {
            0 => { map.evict(evicted); }
            1 => kept.set(outbound(map, &node, &first.packet(WAY_OUT, ACK), Whose::Pod, || false).ok()),
            _ => kept.set(outbound(map, &node, &second.packet(WAY_OUT, ACK), Whose::Pod, || false).ok()),
        });
        let ours = outbound(&map, &node, &first.packet(WAY_OUT, ACK), Whose::Pod, || false).ok();
        map.in_peace();
        if let Some(Outbound::Translate(to)) = ours {
            let whom = inbound(&map, node.now, &first.seen_as(to).packet(WAY_IN, ACK)).map(|half| half.target());
            if what != 0 {
                prop_assert_eq!(whom, Some(first.source()));
            } else {
                prop_assert!(whom.is_none_or(|whom| whom == first.source()));
            }
        }
        let other = if what == 1 { first } else { second };
        if let (Some(Outbound::Translate(a)), Some(Outbound::Translate(b))) = (ours, theirs.get()) {
            prop_assert_eq!(first.seen_as(a) == other.seen_as(b), first == other);
        }
    }
}
