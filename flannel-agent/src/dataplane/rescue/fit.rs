//! Inner packets longer than `flannel.<VNI>`'s MTU: the pair would drop them, so they are fragmented here,
//! as the stack would do on the way to the pod (RFC 791, section 3.2).

use crate::base::checksum;
use flannel_common::header::Ip;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// Option type, "copied" bit: the option goes into every fragment.
const COPIED: u8 = 0x80;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;

/// What to do with a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Whole,
    Pieces(Vec<Vec<u8>>),
    /// It must not be fragmented: its sender has to be told.
    TooLong,
}

/// `packet` is a checked IPv4 packet.
pub(super) fn fit(packet: &[u8], mtu: u32) -> Fit {
    let mtu = mtu as usize;
    if packet.len() <= mtu {
        return Fit::Whole;
    }
    let ip: Ip = bytemuck::pod_read_unaligned(&packet[..Ip::LEN]);
    let flags = u16::from_be_bytes(ip.fragment);
    if flags & DONT_FRAGMENT != 0 {
        return Fit::TooLong;
    }
    let (first_header, body) = packet.split_at(usize::from(ip.version_ihl & 0xf) * 4);
    let later_header = copied_only(first_header);
    let mut pieces = Vec::new();
    let mut done = 0;
    while done < body.len() {
        let header = if done == 0 {
            first_header
        } else {
            &later_header
        };
        // Offsets count in units of eight bytes.
        let room = mtu.saturating_sub(header.len()) / 8 * 8;
        if room == 0 {
            return Fit::TooLong;
        }
        let last = body.len() - done <= room;
        let part = &body[done..body.len().min(done + room)];
        let Some(piece) = piece(header, part, flags, done, last) else {
            return Fit::TooLong;
        };
        pieces.push(piece);
        done += part.len();
    }
    Fit::Pieces(pieces)
}

/// One fragment; `None` if it would lie beyond the longest packet.
fn piece(header: &[u8], part: &[u8], flags: u16, done: usize, last: bool) -> Option<Vec<u8>> {
    let offset = (flags & OFFSET) + u16::try_from(done / 8).ok()?;
    // The packet may be a fragment itself: then only its own flag says whether more follow.
    let more = if last {
        flags & MORE_FRAGMENTS
    } else {
        MORE_FRAGMENTS
    };
    let total = u16::try_from(header.len() + part.len()).ok()?;
    let mut piece = header.to_vec();
    piece[2..4].copy_from_slice(&total.to_be_bytes());
    piece[6..8].copy_from_slice(&(more | offset).to_be_bytes());
    piece[10..12].fill(0);
    let check = checksum(&piece);
    piece[10..12].copy_from_slice(&check);
    piece.extend_from_slice(part);
    (offset <= OFFSET).then_some(piece)
}

/// A header with only those options that belong into every fragment.
fn copied_only(header: &[u8]) -> Vec<u8> {
    let (fixed, options) = header.split_at(Ip::LEN);
    let mut kept = fixed.to_vec();
    let mut at = 0;
    while let Some(kind) = options.get(at) {
        let len = match *kind {
            END_OF_OPTIONS => break,
            NO_OPERATION => 1,
            _ => options.get(at + 1).map_or(0, |len| usize::from(*len)),
        };
        let Some(option) = options.get(at..at + len).filter(|_| len > 0) else {
            break;
        };
        if kind & COPIED != 0 {
            kept.extend_from_slice(option);
        }
        at += len;
    }
    kept.resize(kept.len().next_multiple_of(4), END_OF_OPTIONS);
    if let Ok(words) = u8::try_from(kept.len() / 4) {
        kept[0] = 0x40 | words;
    }
    kept
}

#[cfg(test)]
mod tests {
    use etherparse::Ipv4Header;
    use proptest::prelude::*;

    use super::*;

    fn packet(body: usize, fragment: u16, options: &[u8]) -> Vec<u8> {
        let header = Ip::LEN + options.len();
        let total = u16::try_from(header + body).unwrap();
        let mut packet = vec![0; Ip::LEN];
        packet[0] = 0x40 | u8::try_from(header / 4).unwrap();
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[8] = 64;
        packet.extend_from_slice(options);
        packet.extend((0..body).map(|n| n.to_le_bytes()[0]));
        packet
    }

    fn pieces(packet: &[u8], mtu: u32) -> Vec<(Ipv4Header, Vec<u8>)> {
        match fit(packet, mtu) {
            Fit::Pieces(pieces) => pieces
                .iter()
                .map(|piece| {
                    assert!(piece.len() <= mtu as usize);
                    let (header, body) = Ipv4Header::from_slice(piece).unwrap();
                    assert_eq!(header.header_checksum, header.calc_header_checksum());
                    assert_eq!(usize::from(header.total_len), piece.len());
                    (header, body.to_vec())
                })
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_fits_is_left_alone() {
        assert_eq!(fit(&packet(1430, 0, &[]), 1450), Fit::Whole);
    }

    #[test]
    fn what_must_not_be_fragmented_is_not() {
        assert_eq!(fit(&packet(1431, DONT_FRAGMENT, &[]), 1450), Fit::TooLong);
    }

    #[test]
    fn a_fragment_of_a_fragment_keeps_its_place() {
        let middle = packet(1600, MORE_FRAGMENTS | 100, &[]);
        let pieces = pieces(&middle, 1450);
        assert!(pieces.iter().all(|(header, _)| header.more_fragments));
        assert_eq!(pieces[0].0.fragment_offset.value(), 100);
        assert_eq!(pieces[1].0.fragment_offset.value(), 100 + 1424 / 8);
        let end = packet(1600, 100, &[]);
        assert!(!super::tests::pieces(&end, 1450)[1].0.more_fragments);
    }

    #[test]
    fn only_copied_options_are_repeated() {
        // Router alert (copied), timestamp (not copied), end.
        let options = [0x94, 4, 0, 0, 0x44, 4, 5, 0];
        let pieces = pieces(&packet(3000, 0, &options), 1450);
        assert_eq!(&pieces[0].0.options[..], options);
        assert_eq!(&pieces[1].0.options[..], [0x94, 4, 0, 0]);
    }

    proptest! {
        #[test]
        fn pieces_put_together_are_the_packet(body in 1500usize..60_000, mtu in 68u32..1500) {
            let whole = packet(body, 0, &[]);
            let pieces = pieces(&whole, mtu);
            let mut joined = Vec::new();
            for (index, (header, part)) in pieces.iter().enumerate() {
                prop_assert_eq!(usize::from(header.fragment_offset.value()) * 8, joined.len());
                prop_assert_eq!(header.more_fragments, index + 1 < pieces.len());
                joined.extend_from_slice(part);
            }
            prop_assert_eq!(&joined[..], &whole[Ip::LEN..]);
        }
    }
}
