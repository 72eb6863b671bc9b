use super::*;
use proptest::prelude::*;
use rstest::rstest;

use crate::csum;
use crate::header::PROTO_TCP;

const NOW: Tick = 77_777;

fn before(proto: u8) -> Crossing {
    let mut ip = Ip {
        version_ihl: 0x45,
        tos: 0x02,
        total_len: 540_u16.to_be_bytes(),
        id: [0x12, 0x34],
        fragment: [0x40, 0],
        ttl: 64,
        proto,
        check: [0; 2],
        src: [10, 244, 1, 5],
        dst: [10, 244, 2, 7],
    };
    ip.check = csum::ipv4_header(bytemuck::cast_ref(&ip));
    let mut l4: L4 = core::array::from_fn(|i| i.to_le_bytes()[0].wrapping_mul(29));
    (l4[12], l4[13]) = (0x80, 0x18);
    Crossing {
        seen: Seen {
            ip,
            l4,
            mark: 0,
            priority: 0,
        },
        device: 7,
        gso_size: 0,
        epoch: 3,
        at: NOW,
        out: 0,
    }
}

/// As the stack forwards it.
fn forwarded(note: &Crossing) -> Seen {
    Seen {
        ip: Change::NONE.hop(&note.seen.ip),
        ..note.seen
    }
}

fn change(note: &Crossing, after: &Seen) -> Option<Change> {
    note.change(after, NOW)
}

#[rstest]
fn a_forwarded_packet_is_known_again(#[values(6, 17)] proto: u8) {
    let note = before(proto);
    let want = Change {
        tos_in: 2,
        tos: 2,
        ttl_in: note.seen.ip.ttl,
        ..Change::NONE
    };
    assert_eq!(change(&note, &forwarded(&note)), Some(want));
}

#[rstest]
#[case::another_id(|s: &mut Seen| s.ip.id[1] ^= 1)]
#[case::may_be_fragmented(|s: &mut Seen| s.ip.fragment = [0, 0])]
#[case::a_fragment(|s: &mut Seen| s.ip.fragment = [0x20, 0])]
#[case::shorter(|s: &mut Seen| s.ip.total_len[1] -= 1)]
#[case::with_options(|s: &mut Seen| s.ip.version_ihl = 0x46)]
#[case::no_hop(|s: &mut Seen| s.ip.ttl = 64)]
#[case::two_hops(|s: &mut Seen| s.ip.ttl = 62)]
#[case::another_protocol(|s: &mut Seen| s.ip.proto = 132)]
#[case::congestion(|s: &mut Seen| s.ip.tos |= 3)]
#[case::another_source(|s: &mut Seen| s.ip.src[3] ^= 1)]
#[case::another_destination(|s: &mut Seen| s.ip.dst[3] ^= 1)]
#[case::another_source_port(|s: &mut Seen| s.l4[1] ^= 1)]
#[case::another_destination_port(|s: &mut Seen| s.l4[3] ^= 1)]
#[case::sequence_or_length(|s: &mut Seen| s.l4[4] ^= 1)]
#[case::acknowledgement_or_payload(|s: &mut Seen| s.l4[11] ^= 1)]
#[case::flags_or_payload(|s: &mut Seen| s.l4[13] ^= 0x08)]
#[case::window_or_payload(|s: &mut Seen| s.l4[15] ^= 1)]
fn another_packet_is_another_packet(#[case] change_one: fn(&mut Seen), #[values(6, 17)] proto: u8) {
    let note = before(proto);
    let mut after = forwarded(&note);
    change_one(&mut after);
    assert_eq!(change(&note, &after), None);
}

#[test]
fn a_note_is_about_what_comes_out_soon() {
    let note = before(PROTO_TCP);
    let after = forwarded(&note);
    let later = |ticks| note.change(&after, NOW.wrapping_add(ticks));
    assert!(later(LONGEST - 1).is_some());
    assert_eq!(later(LONGEST), None);
    assert_eq!(later(u32::MAX), None, "the clock runs one way");
    let none = Crossing::zeroed();
    let nothing = Seen::zeroed();
    assert_eq!(none.change(&nothing, 0), None);
    let mut hop = nothing;
    hop.ip.ttl = 255;
    assert_eq!(none.change(&hop, 1), None, "no note");
}

/// The bridge cuts up what the tunnel brought whole: its first segment speaks for it.
#[test]
fn the_first_segment_speaks_for_all() {
    let mut note = before(PROTO_TCP);
    note.gso_size = 100;
    let whole = forwarded(&note);
    let mut first = whole;
    first.ip.total_len = 152_u16.to_be_bytes();
    first.l4[13] = 0x10;
    assert!(change(&note, &whole).is_some() && change(&note, &first).is_some());
    let mut second = first;
    second.l4[6] ^= 1;
    assert_eq!(change(&note, &second), None);
    first.ip.total_len = 153_u16.to_be_bytes();
    assert_eq!(change(&note, &first), None);
    note.gso_size = 0;
    first.ip.total_len = 152_u16.to_be_bytes();
    assert_eq!(change(&note, &first), None, "it was no GSO packet");
}

/// A device without offload sums up what the pod left to the hardware; and so does a translation of our own.
#[test]
fn udp_s_checksum_may_be_another() {
    let note = before(PROTO_UDP);
    let changed = |at: usize| {
        let mut after = forwarded(&note);
        after.l4[at] ^= 0x55;
        change(&note, &after)
    };
    assert!(changed(6).is_some() && changed(7).is_some());
    for at in (0..16).filter(|at| *at != 6 && *at != 7) {
        assert_eq!(changed(at), None, "byte {at}");
    }
}

#[test]
fn a_packet_like_it_is_treated_like_it() {
    let mut note = before(PROTO_TCP);
    note.seen.mark = 9;
    let mut after = forwarded(&note);
    (after.ip.tos, after.mark, after.priority) = (0xba, 0x10000, 0x10010);
    let learnt = change(&note, &after).expect("the same packet");
    assert_eq!((learnt.mark, learnt.priority), (0x10000, 0x10010));
    let like = |tos, ttl| Ip {
        tos,
        ttl,
        ..note.seen.ip
    };
    let ttl = note.seen.ip.ttl;
    assert!(learnt.is_of(&like(0x02, ttl), 9) && learnt.is_of(&like(0x03, ttl), 9));
    assert!(!learnt.is_of(&like(0x02, ttl), 0) && !learnt.is_of(&like(0x22, ttl), 9));
    assert!(
        !learnt.is_of(&like(0x02, ttl - 1), 9),
        "a rule may go by it"
    );
    let mut next = note.seen.ip;
    next.tos = 0x03;
    assert_eq!(learnt.hop(&next).tos, 0xbb, "congestion is the network's");
}

#[test]
fn directions_have_notes_of_their_own() {
    let key = FlowKey::pod([10, 244, 1, 5]);
    let places = [Direction::Tx, Direction::Rx].map(|way| place(&key, way));
    assert_ne!(places[0], places[1]);
}

#[test]
fn flows_spread_over_the_places() {
    let mut taken = [0; SLOTS];
    for port in 0..1600_u16 {
        let key = FlowKey {
            remote: [10, 244, 2, 7],
            local_port: (32_768 + port).to_be_bytes(),
            remote_port: [0, 80],
            proto: 6,
            ..FlowKey::pod([10, 244, 1, 5])
        };
        taken[place(&key, Direction::Tx) as usize] += 1;
    }
    assert!(
        taken[..16].iter().all(|n| (50..200).contains(n)),
        "{taken:?}"
    );
}

fn notes() -> impl Strategy<Value = Crossing> {
    (
        any::<[u8; 36]>(),
        any::<[u32; 6]>(),
        2u8..,
        prop_oneof![Just(0u32), 1u32..2000],
        prop_oneof![Just(6u8), Just(17)],
    )
        .prop_map(
            |(bytes, [mark, priority, device, epoch, at, _], ttl, gso_size, proto)| {
                let mut ip: Ip = bytemuck::pod_read_unaligned(&bytes[..20]);
                (ip.version_ihl, ip.ttl, ip.proto) = (0x45, ttl, proto);
                ip.check = csum::ipv4_header(bytemuck::cast_ref(&ip));
                Crossing {
                    seen: Seen {
                        ip,
                        l4: bytemuck::pod_read_unaligned(&bytes[20..]),
                        mark,
                        priority,
                    },
                    device,
                    gso_size,
                    epoch,
                    at: at | 1,
                    out: 0,
                }
            },
        )
}

proptest! {
    #[test]
    fn places_are_in_the_map(bytes: [u8; 16]) {
        let key: FlowKey = bytemuck::pod_read_unaligned(&bytes);
        for direction in [Direction::Tx, Direction::Rx] {
            prop_assert!((place(&key, direction) as usize) < SLOTS);
        }
    }

    /// What is done to the next packet is what the stack did to this one, to the byte.
    #[test]
    fn the_packet_itself_repeated_is_what_came_out(
        note in notes(), dscp: u8, mark: u32, priority: u32, wait in 0..LONGEST,
    ) {
        let mut after = forwarded(&note);
        after.ip.tos = note.seen.ip.tos & 3 | dscp & 0xfc;
        after.ip.check = csum::ipv4_header(bytemuck::cast_ref(&after.ip));
        (after.mark, after.priority) = (mark, priority);
        let learnt = note.change(&after, note.at.wrapping_add(wait));
        let learnt = learnt.expect("the same packet");
        prop_assert!(learnt.is_of(&note.seen.ip, note.seen.mark));
        prop_assert_eq!((learnt.mark, learnt.priority), (mark, priority));
        let repeated = learnt.hop(&note.seen.ip);
        // 0x0000 and 0xffff are the same number in ones' complement.
        let same = |a: [u8; 2]| if a == [0xff, 0xff] { [0, 0] } else { a };
        prop_assert_eq!(same(repeated.check), same(after.ip.check));
        prop_assert_eq!(Ip { check: after.ip.check, ..repeated }, after.ip);
    }

    /// Any other difference, of whatever bit, and it is another packet.
    #[test]
    fn any_other_bit_makes_another_packet(note in notes(), bit in 0usize..36 * 8) {
        let mut note = note;
        note.gso_size = 0;
        let mut after = forwarded(&note);
        let (byte, mask) = (bit / 8, 1u8 << (bit % 8));
        prop_assume!(byte != 9, "of another protocol the checksum is elsewhere");
        // A rule may write the DSCP; checksums follow from the rest.
        let may_differ = match byte {
            1 => mask > 2,
            10 | 11 => true,
            26 | 27 => note.seen.ip.proto == PROTO_UDP,
            _ => false,
        };
        let mut bytes: [u8; 44] = bytemuck::must_cast(after);
        bytes[byte] ^= mask;
        after = bytemuck::pod_read_unaligned(&bytes);
        let learnt = note.change(&after, note.at);
        prop_assert_eq!(learnt.is_some(), may_differ);
    }
}
