//! One pod opens flows without end: what lasts stays, others open theirs, and so does the node.
//!
//! The table is small, so that a flood fills it many times over.

use flannel_common::Ipv4;
use flannel_common::maps;
use flannel_common::program::Program::{SnatOpen, SnatRoom, UplinkSnatRx, UplinkTx};
use flannel_common::reason::Reason;
use flannel_common::snat::{Lasting, WAY_OUT, most_of_one, places};
use flannel_tests::packet::outside::{
    ACK, OTHER_POD, POD, Plain, SERVER, SYN, SYN_ACK, US, source,
};
use flannel_tests::packet::{Fixture, Node, Run, SHOT, UNSPEC};
use rstest::rstest;

/// Index of the loopback device, in any namespace.
const LOOPBACK: u32 = 1;
const ENTRIES: u32 = 4_096;
/// Flows of the flood: as many as the table has entries, at two entries each.
const FLOOD: u16 = 8_192;

/// Who floods.
const FLOODER: Ipv4 = [10, 244, 1, 66];
/// And what for: all of it goes to other ports than what the tests ask for.
const ELSEWHERE: Ipv4 = [198, 51, 100, 77];

fn node() -> Fixture {
    Node {
        snat_entries: ENTRIES,
        snat_ports: (49_152, 65_535),
        ..Node::default()
    }
    .load_snat()
}

/// A connection of `pod`, made and then idle; returns its port.
fn connect(node: &mut Fixture, pod: Ipv4) -> u16 {
    let flow = Plain::default().from(pod, 40_000);
    let (addr, port) = node.leaves(&flow.tcp(SYN));
    assert_eq!(addr, US);
    let back = flow.from(US, port).answer();
    assert_eq!(
        node.run(UplinkSnatRx, &back.tcp(SYN_ACK)).packet,
        flow.answer().tcp(SYN_ACK)
    );
    assert_eq!(node.leaves(&flow.tcp(ACK)), (US, port));
    port
}

/// The server speaks first, after the pause.
fn is_alive(node: &mut Fixture, pod: Ipv4, port: u16) {
    let flow = Plain::default().from(pod, 40_000);
    let back = flow.from(US, port).answer();
    assert_eq!(
        node.run(UplinkSnatRx, &back.tcp(ACK)).packet,
        flow.answer().tcp(ACK),
        "{pod:?}: the server is heard"
    );
    assert_eq!(
        node.leaves(&flow.tcp(ACK)),
        (US, port),
        "{pod:?}: and answered"
    );
}

type Make = fn(u16) -> Vec<u8>;

fn udp(n: u16) -> Vec<u8> {
    Plain {
        src: FLOODER,
        dst: ELSEWHERE,
        sport: 1_024 + n,
        dport: 9_000 + n % 8,
        ..Plain::default()
    }
    .udp()
}

fn syn(n: u16) -> Vec<u8> {
    Plain {
        src: FLOODER,
        dst: ELSEWHERE,
        sport: 1_024 + n,
        dport: 9_000 + n % 8,
        ..Plain::default()
    }
    .tcp(SYN)
}

/// A scan: another address each time.
fn scan(n: u16) -> Vec<u8> {
    let [a, b] = n.to_be_bytes();
    Plain {
        src: FLOODER,
        dst: [203, 0, a, b],
        ..Plain::default()
    }
    .tcp(SYN)
}

/// The id of a ping is its "source port".
fn ping(n: u16) -> Vec<u8> {
    Plain {
        src: FLOODER,
        dst: ELSEWHERE,
        sport: n,
        ..Plain::default()
    }
    .ping()
}

/// A protocol without ports: one flow for each address.
fn gre(n: u16) -> Vec<u8> {
    let [a, b] = n.to_be_bytes();
    Plain {
        src: FLOODER,
        dst: [203, 0, a, b],
        ..Plain::default()
    }
    .other(47)
}

#[rstest]
#[case::udp(udp)]
#[case::syn(syn)]
#[case::scan(scan)]
#[case::ping(ping)]
#[case::gre(gre)]
fn a_flood_ends_its_own_flows_alone(#[case] make: Make) {
    let mut node = node();
    let (mine, others) = (connect(&mut node, FLOODER), connect(&mut node, OTHER_POD));
    let mut went = 0;
    for n in 0..FLOOD {
        // Twice, so that the LRU takes them for flows in use.
        let packet = make(n);
        for _ in 0..2 {
            went += u32::from(node.run(UplinkTx, &packet).action == UNSPEC);
        }
        if n % 1_024 == 0 {
            // Others open theirs in the middle of it.
            let new = Plain::default().from(POD, 20_000 + n);
            let (_, port) = node.leaves(&new.tcp(SYN));
            let back = new.from(US, port).answer();
            assert_eq!(
                node.run(UplinkSnatRx, &back.tcp(SYN_ACK)).packet,
                new.answer().tcp(SYN_ACK)
            );
        }
    }
    assert_eq!(went, 2 * u32::from(FLOOD), "the flood itself goes out");
    is_alive(&mut node, OTHER_POD, others);
    is_alive(&mut node, FLOODER, mine);

    let entries = node.snat_entries();
    let flows = entries.iter().filter(|(key, _)| key.way == WAY_OUT);
    let of_flood = flows.filter(|(key, _)| key.src == FLOODER).count();
    assert!(
        of_flood <= places(ENTRIES) as usize + 1,
        "{of_flood} flows of the flood"
    );
    assert!(of_flood > places(ENTRIES) as usize / 2, "{of_flood}");
    let share = node.share(FLOODER, false);
    assert!(share.young as usize >= of_flood - 1, "{share:?}");
    assert!(share.ended > u32::from(FLOOD) / 2, "{share:?}");
    assert_eq!(node.share(OTHER_POD, false).ended, 0);
    assert_eq!(node.share(POD, false).ended, 0);
    let own = Plain::default().from(US, 50_000);
    assert_eq!(
        node.run(UplinkTx, &own.tcp(SYN)).action,
        UNSPEC,
        "the node's"
    );
}

/// All ports towards one server are the flood's: another pod gets one of them.
#[test]
fn a_flood_has_not_all_ports_of_a_server() {
    let mut node = Node {
        snat_ports: (50_000, 50_063),
        snat_entries: ENTRIES,
        ..Node::default()
    }
    .load_snat();
    let flood = |n: u16| Plain::default().from(FLOODER, 1_024 + n);
    let port = connect(&mut node, FLOODER);
    // The last ports are found by chance: a search looks at as many as there are, but at some of them twice.
    let mut takes = |packet: &[u8]| {
        let found = (0..32).any(|_| node.run(UplinkTx, packet).action == UNSPEC);
        assert!(found, "a port for the flood");
    };
    for n in 0..63 {
        takes(&flood(n).udp());
        if n < 62 {
            takes(&flood(n).tcp(SYN));
        }
    }
    let exhausted = |node: &Fixture| node.count(SnatOpen, Reason::SnatExhausted).packets;
    let before = exhausted(&node);
    for n in 0..16 {
        let new = Plain::default().from(OTHER_POD, 40_000 + n);
        let (_, port) = node.leaves(&new.udp());
        let back = new.from(US, port).answer();
        assert_eq!(
            node.run(UplinkSnatRx, &back.udp()).packet,
            new.answer().udp(),
            "and is answered"
        );
        node.leaves(&new.tcp(SYN));
    }
    assert_eq!(exhausted(&node), before);
    is_alive(&mut node, FLOODER, port);
}

/// Connections that come in for pods, from addresses that nobody has.
#[test]
fn forged_connections_push_nobody_out() {
    let mut node = node();
    let port = connect(&mut node, OTHER_POD);
    // Pods are known outside here: packets come for their own addresses.
    let client = Plain {
        sport: 5_000,
        dport: 80,
        ..Plain::between(SERVER, POD)
    };
    node.run(UplinkSnatRx, &client.tcp(SYN));
    let answer = |node: &mut Fixture, client: Plain, flags| {
        let answer = client.answer().tcp(flags);
        node.run(UplinkTx, &answer).packet == answer
    };
    assert!(
        answer(&mut node, client, SYN_ACK),
        "known as one that came in"
    );
    node.run(UplinkSnatRx, &client.tcp(ACK));
    for n in 0..FLOOD {
        let [a, b] = n.to_be_bytes();
        let forged = Plain {
            src: [203, 0, a, b],
            ..client
        };
        for _ in 0..2 {
            node.run(UplinkSnatRx, &forged.tcp(SYN));
        }
        if n % 1_024 == 0 {
            let real = Plain {
                sport: 6_000 + n,
                ..client
            };
            node.run(UplinkSnatRx, &real.tcp(SYN));
            assert!(answer(&mut node, real, SYN_ACK), "new ones come in");
        }
    }
    assert!(answer(&mut node, client, ACK), "the idle one is known");
    is_alive(&mut node, OTHER_POD, port);
    let share = node.share(POD, true);
    assert!(
        share.ended > 0 && share.young <= places(ENTRIES),
        "{share:?}"
    );
    assert_eq!(node.share(OTHER_POD, false).ended, 0);
}

/// What somebody outside can make the node send, from addresses that nobody has.
#[rstest]
#[case::pings(Plain::pong, 0)]
#[case::datagrams(Plain::udp, 0)]
#[case::connections(|p: Plain| p.tcp(SYN_ACK), 0)]
// kube-proxy has masqueraded what came in for a Service.
#[case::forwarded_in_its_name(|p: Plain| p.tcp(SYN), LOOPBACK)]
fn who_asks_the_node_pushes_nobody_out(#[case] answer: fn(Plain) -> Vec<u8>, #[case] came_by: u32) {
    let mut node = node();
    let port = connect(&mut node, OTHER_POD);
    for n in 0..FLOOD {
        let [a, b] = n.to_be_bytes();
        let asked = Plain {
            src: US,
            dst: [203, 0, a, b],
            sport: 50_000,
            ..Plain::default()
        };
        for _ in 0..2 {
            let packet = answer(asked);
            let run = Run {
                packet: &packet,
                came_by,
                ..Run::default()
            };
            let sent = node.run_with(UplinkTx, &run);
            assert_eq!((sent.action, sent.packet), (UNSPEC, answer(asked)));
        }
    }
    is_alive(&mut node, OTHER_POD, port);
    let notes = node.snat_entries().len() - 2;
    assert!(notes <= places(ENTRIES) as usize, "{notes}");
}

/// Who has few young flows keeps them, however long they are unanswered.
#[test]
fn a_few_unanswered_flows_outlive_a_flood() {
    let mut node = node();
    let waiting = Plain::default().from(OTHER_POD, 40_000);
    let (_, port) = node.leaves(&waiting.udp());
    for n in 0..FLOOD {
        node.run(UplinkTx, &udp(n));
    }
    let back = waiting.from(US, port).answer();
    assert_eq!(
        node.run(UplinkSnatRx, &back.udp()).packet,
        waiting.answer().udp()
    );
}

/// A server that answers everything makes the flood's connections last.
#[rstest]
#[case::somebody_counts(true, 0)]
#[case::places_count_too(true, places(ENTRIES))]
#[case::the_agent_is_dead(false, 0)]
fn half_of_the_table_is_one_pods_at_most(#[case] counted: bool, #[case] placed: u32) {
    let mut node = node();
    let port = connect(&mut node, OTHER_POD);
    let tick = node.tick();
    let old = tick.wrapping_sub(1_000_000) | 1;
    node.set_lasting(
        FLOODER,
        Lasting {
            flows: 0,
            placed,
            most: most_of_one(places(ENTRIES)),
            at: if counted { tick } else { old },
        },
    );
    let mut refused = 0;
    for n in 0..FLOOD / 4 {
        let flow = Plain {
            src: FLOODER,
            dst: ELSEWHERE,
            sport: 1_024 + n,
            ..Plain::default()
        };
        let out = node.run(UplinkTx, &flow.tcp(SYN));
        if out.action == SHOT {
            refused += 1;
            continue;
        }
        let left = source(&out.packet).1;
        let back = flow.from(US, left).answer();
        node.run(UplinkSnatRx, &back.tcp(SYN_ACK));
        node.leaves(&flow.tcp(ACK));
    }
    assert_eq!(node.count(SnatRoom, Reason::SnatShare).packets, refused);
    assert_eq!(refused > 0, counted);
    if counted {
        let lasting: Lasting = node.map_value(maps::LASTING, u32::from(FLOODER[3]));
        assert_eq!(lasting.flows + placed, 2 * places(ENTRIES));
        is_alive(&mut node, OTHER_POD, port);
        let new = Plain::default().from(POD, 40_000);
        node.leaves(&new.tcp(SYN));
    }
}
