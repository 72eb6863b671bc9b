//! What the way to other nodes carries, asked by packets that must not be fragmented: pings of full size.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::node::net::sockopt;

/// Routers answer within a round trip.
const PATIENCE: Duration = Duration::from_secs(1);
/// So many are on their way at once, lest answers find no room.
const AT_ONCE: usize = 64;
/// So many packets are looked at behind the deadline: two answers to each, and other people's.
const LATE: usize = 4 * AT_ONCE;
/// A wait that is none: zero would be one without an end.
const BLINK: Duration = Duration::from_millis(1);
/// IPv4 and ICMP header.
const HEADERS: usize = 28;
/// Every way carries it (RFC 791).
const SMALL: usize = 68;

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const TOO_BIG: u8 = 4;
const ECHO: u8 = 8;

/// What became of the pings to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// It carries what it was asked for.
    Whole,
    /// A router on the way takes no more than so many bytes.
    Less(u32),
    /// Small pings are answered, large ones are not, and nobody says why.
    OnlySmall,
    /// Nobody answers pings there.
    Silent,
}

/// Pings each of `to` with IPv4 packets of `size` bytes.
///
/// # Errors
/// Without CAP_NET_RAW.
pub fn probe(to: &[Ipv4Addr], size: u32) -> io::Result<BTreeMap<Ipv4Addr, Found>> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    // DF, and whatever the kernel thinks it knows of the way.
    sockopt::set_ip(&socket, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
    let mut found = BTreeMap::new();
    for part in to.chunks(AT_ONCE) {
        let round = Round::new(part);
        round.ask(&socket, size as usize);
        found.extend(round.hear(&socket, Instant::now() + PATIENCE)?);
    }
    Ok(found)
}

/// Whom is asked at the same time.
struct Round<'a> {
    to: &'a [Ipv4Addr],
    id: u16,
    small: Vec<bool>,
    large: Vec<Option<Found>>,
}

impl<'a> Round<'a> {
    fn new(to: &'a [Ipv4Addr]) -> Self {
        Self {
            to,
            id: rand::random(),
            small: vec![false; to.len()],
            large: vec![None; to.len()],
        }
    }

    fn ask(&self, socket: &Socket, size: usize) {
        for (number, address) in self.to.iter().enumerate() {
            for (sequence, size) in [(2 * number, SMALL), (2 * number + 1, size)] {
                let packet = echo(self.id, u16::try_from(sequence).unwrap_or(u16::MAX), size);
                // No route, or an answer to one before it: this one stays without.
                let _ = socket.send_to(&packet, &SocketAddrV4::new(*address, 0).into());
            }
        }
    }

    /// Until all is answered, or nothing more came by `deadline`.
    fn hear(mut self, socket: &Socket, deadline: Instant) -> io::Result<BTreeMap<Ipv4Addr, Found>> {
        let mut buffer = [MaybeUninit::uninit(); 2048];
        let mut late = 0;
        while self.large.contains(&None) && late < LATE {
            let left = deadline.saturating_duration_since(Instant::now());
            // The machine may have stood still: what came meanwhile waits in the socket and is heard.
            late += usize::from(left.is_zero());
            socket.set_read_timeout(Some(left.max(BLINK)))?;
            match socket.recv(&mut buffer) {
                Ok(len) => {
                    let bytes: Vec<u8> = buffer[..len]
                        .iter()
                        // SAFETY: the kernel wrote `len` bytes.
                        .map(|byte| unsafe { byte.assume_init() })
                        .collect();
                    self.take(&bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What a router answered comes as an error of the socket, too.
                Err(_) => {}
            }
        }
        let outcome = |number: usize| match (self.large[number], self.small[number]) {
            (Some(found), _) => found,
            (None, true) => Found::OnlySmall,
            (None, false) => Found::Silent,
        };
        let all = self.to.iter().enumerate();
        Ok(all.map(|(number, to)| (*to, outcome(number))).collect())
    }

    /// An IPv4 packet that came for us, whatever it is.
    fn take(&mut self, packet: &[u8]) {
        let Some((sequence, found)) = answer(packet, self.id) else {
            return;
        };
        let number = usize::from(sequence / 2);
        let (Some(small), Some(large)) = (self.small.get_mut(number), self.large.get_mut(number))
        else {
            return;
        };
        match sequence.is_multiple_of(2) {
            true => *small = true,
            false => *large = Some(found),
        }
    }
}

/// An ICMP message that makes an IPv4 packet of `size` bytes.
fn echo(id: u16, sequence: u16, size: usize) -> Vec<u8> {
    let mut message = vec![0; 8 + size.saturating_sub(HEADERS)];
    message[0] = ECHO;
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let checksum = !sum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// The internet checksum's sum (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| match *word {
        [high, low] => u64::from(u16::from_be_bytes([high, low])),
        [high, ..] => u64::from(u16::from_be_bytes([high, 0])),
        [] => 0,
    });
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The number of the ping that an IPv4 packet answers, and what it says.
fn answer(packet: &[u8], id: u16) -> Option<(u16, Found)> {
    let message = payload(packet)?;
    let half = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..)?.first_chunk()?;
        Some(u16::from_be_bytes(*bytes))
    };
    let (ping, found) = match (*message.first()?, *message.get(1)?) {
        (ECHO_REPLY, _) => (message, Found::Whole),
        (UNREACHABLE, TOO_BIG) => {
            let ping = payload(message.get(8..)?)?;
            (ping, Found::Less(half(message, 6)?.into()))
        }
        _ => return None,
    };
    (half(ping, 4)? == id).then_some((half(ping, 6)?, found))
}

/// What an IPv4 packet carries, if that is ICMP.
fn payload(packet: &[u8]) -> Option<&[u8]> {
    let len = usize::from(packet.first()? & 0xf) * 4;
    let is_icmp = *packet.get(9)? == 1;
    packet.get(len..).filter(|_| is_icmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; 20];
        header[0] = 0x45;
        header[9] = protocol;
        [&header[..], payload].concat()
    }

    fn reply(id: u16, sequence: u16) -> Vec<u8> {
        let mut message = echo(id, sequence, SMALL);
        message[0] = ECHO_REPLY;
        packet(1, &message)
    }

    fn too_big(id: u16, sequence: u16, mtu: u16) -> Vec<u8> {
        let ping = packet(1, &echo(id, sequence, SMALL)[..8]);
        let mut message = vec![UNREACHABLE, TOO_BIG, 0, 0, 0, 0, 0, 0];
        message[6..8].copy_from_slice(&mtu.to_be_bytes());
        message.extend(ping);
        packet(1, &message)
    }

    #[test]
    fn a_ping_has_the_size_that_was_asked_for_and_a_checksum() {
        let message = echo(7, 9, 1500);
        assert_eq!(message.len() + 20, 1500);
        assert_eq!(sum(&message), 0xffff);
    }

    #[test]
    fn answers_are_told_from_other_peoples() {
        assert_eq!(answer(&reply(7, 3), 7), Some((3, Found::Whole)));
        assert_eq!(answer(&reply(8, 3), 7), None);
        assert_eq!(
            answer(&too_big(7, 3, 1400), 7),
            Some((3, Found::Less(1400)))
        );
        assert_eq!(answer(&too_big(8, 3, 1400), 7), None);
        assert_eq!(answer(&packet(17, &[0; 8]), 7), None);
        for len in 0..reply(7, 3).len().min(27) {
            assert_eq!(answer(&reply(7, 3)[..len], 7), None, "{len}");
        }
    }

    /// A machine that stood still for longer than the patience finds the answers in the socket.
    #[test]
    fn answers_that_wait_behind_the_deadline_are_heard() {
        let (socket, others) = Socket::pair(Domain::UNIX, Type::DGRAM, None).unwrap();
        let to = [1, 2].map(|last| Ipv4Addr::new(192, 0, 2, last));
        let round = Round::new(&to);
        let id = round.id;
        for packet in [reply(id, 0), reply(id ^ 1, 1), reply(id, 1), reply(id, 2)] {
            others.send(&packet).unwrap();
        }
        let found = round.hear(&socket, Instant::now()).unwrap();
        assert_eq!(found[&to[0]], Found::Whole);
        assert_eq!(found[&to[1]], Found::OnlySmall);
    }

    #[test]
    fn other_peoples_packets_do_not_hold_it_up() {
        let (socket, others) = Socket::pair(Domain::UNIX, Type::DGRAM, None).unwrap();
        let to = [Ipv4Addr::new(192, 0, 2, 1)];
        let round = Round::new(&to);
        let id = round.id;
        let chatter = std::thread::spawn(move || while others.send(&reply(id ^ 1, 0)).is_ok() {});
        let found = round.hear(&socket, Instant::now()).unwrap();
        assert_eq!(found[&to[0]], Found::Silent);
        drop(socket);
        chatter.join().unwrap();
    }

    #[test]
    fn silence_is_told_from_a_way_that_swallows_large_packets() {
        let to = [1, 2, 3, 4].map(|last| Ipv4Addr::new(192, 0, 2, last));
        let mut round = Round::new(&to);
        let id = round.id;
        round.take(&reply(id, 0));
        round.take(&reply(id, 1));
        round.take(&too_big(id, 3, 1400));
        round.take(&reply(id, 4));
        round.take(&reply(id, 999));
        assert_eq!(
            round.large[..2],
            [Some(Found::Whole), Some(Found::Less(1400))]
        );
        assert_eq!((round.large[2], round.small[2]), (None, true));
        assert_eq!((round.large[3], round.small[3]), (None, false));
    }
}
