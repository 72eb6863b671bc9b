//! Many nodes pinged at once: ICMP echoes, and who answered.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::node::net::sockopt;

/// Behind it whoever has not answered is asked once more: a packet may be lost.
const FIRST: Duration = Duration::from_millis(400);
/// Behind the second time. Nodes and routers answer within a round trip.
const PATIENCE: Duration = Duration::from_secs(1);
/// So many are sent in one go, lest queues on the way overflow.
const AT_ONCE: usize = 128;
/// What comes in is taken for so long before more are sent.
const BREATH: Duration = Duration::from_millis(20);
/// Room for the answers, and for what waits for a next hop that does not answer, bytes: a kernel counts a few thousand for each.
const ROOM: libc::c_int = 4 << 20;
/// So many packets are looked at behind the deadline: two answers to each, and other people's.
const LATE: usize = 2 * AT_ONCE;
/// A wait that is none: zero would be one without an end.
const BLINK: Duration = Duration::from_millis(1);
/// IPv4 and ICMP header.
const HEADERS: usize = 28;

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const TOO_BIG: u8 = 4;
const ECHO: u8 = 8;

/// One question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    pub to: Ipv4Addr,
    /// Of the IPv4 packet, bytes.
    pub size: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Reply,
    /// A router on the way takes no more than so many bytes.
    Less(u32),
}

/// Asks.
#[derive(Debug)]
pub struct Pinger(Socket);

impl Pinger {
    /// Packets that must not be fragmented, whatever the kernel thinks it knows of the way.
    ///
    /// # Errors
    /// Without CAP_NET_RAW.
    pub fn whole() -> io::Result<Self> {
        let pinger = Self::new()?;
        sockopt::set_ip(&pinger.0, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        Ok(pinger)
    }

    /// Packets from `source` that leave by the device `index`, wherever other routes lead. Answers may come by any.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, and where `source` is no address of this node.
    pub fn by_device(source: Ipv4Addr, index: u32) -> io::Result<Self> {
        let pinger = Self::new()?;
        let index = i32::from_ne_bytes(index.to_be_bytes());
        sockopt::set_ip(&pinger.0, libc::IP_UNICAST_IF, index)?;
        pinger.0.bind(&SocketAddrV4::new(source, 0).into())?;
        Ok(pinger)
    }

    fn new() -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        for buffer in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
            // Without CAP_NET_ADMIN there is less room, and what found none is asked again.
            let _ = sockopt::set(&socket, libc::SOL_SOCKET, buffer, ROOM);
        }
        Ok(Self(socket))
    }

    /// The answer to each of `pings`, in their order; `None`: nobody answered.
    ///
    /// # Errors
    /// When the kernel takes no time-out for the socket.
    pub fn ask(&self, pings: &[Ping]) -> io::Result<Vec<Option<Answer>>> {
        let mut round = Round::new(pings);
        round.ask(&self.0)?;
        round.hear(&self.0, Instant::now() + FIRST)?;
        if round.is_open() {
            round.ask(&self.0)?;
            round.hear(&self.0, Instant::now() + PATIENCE)?;
        }
        Ok(round.answers)
    }
}

/// Who is asked at the same time.
struct Round<'a> {
    pings: &'a [Ping],
    id: u16,
    answers: Vec<Option<Answer>>,
}

impl<'a> Round<'a> {
    fn new(pings: &'a [Ping]) -> Self {
        Self {
            pings,
            id: rand::random(),
            answers: vec![None; pings.len()],
        }
    }

    fn is_open(&self) -> bool {
        self.answers.contains(&None)
    }

    /// Whoever has not answered yet.
    fn ask(&mut self, socket: &Socket) -> io::Result<()> {
        let open = (0..self.pings.len()).filter(|number| self.answers[*number].is_none());
        let open: Vec<usize> = open.collect();
        for (part, numbers) in open.chunks(AT_ONCE).enumerate() {
            if part > 0 {
                self.hear(socket, Instant::now() + BREATH)?;
            }
            for number in numbers {
                let Ping { to, size } = self.pings[*number];
                // A sequence has 16 bits; nobody asks more.
                let sequence = u16::try_from(*number).unwrap_or(u16::MAX);
                let packet = echo(self.id, sequence, size as usize);
                let to = SocketAddrV4::new(to, 0).into();
                // No route, no room, or an answer to one before it: this one stays without.
                let _ = socket.send_to_with_flags(&packet, &to, libc::MSG_DONTWAIT);
            }
        }
        Ok(())
    }

    /// Until all is answered, or nothing more came by `deadline`.
    fn hear(&mut self, socket: &Socket, deadline: Instant) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 2048];
        let mut late = 0;
        while self.is_open() && late < LATE {
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
        Ok(())
    }

    /// An IPv4 packet that came for us, whatever it is.
    fn take(&mut self, packet: &[u8]) {
        let Some((sequence, said)) = answer(packet, self.id) else {
            return;
        };
        if let Some(open) = self.answers.get_mut(usize::from(sequence)) {
            *open = Some(said);
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
fn answer(packet: &[u8], id: u16) -> Option<(u16, Answer)> {
    let message = payload(packet)?;
    let half = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..)?.first_chunk()?;
        Some(u16::from_be_bytes(*bytes))
    };
    let (ping, said) = match (*message.first()?, *message.get(1)?) {
        (ECHO_REPLY, _) => (message, Answer::Reply),
        (UNREACHABLE, TOO_BIG) => {
            let ping = payload(message.get(8..)?)?;
            (ping, Answer::Less(half(message, 6)?.into()))
        }
        _ => return None,
    };
    (half(ping, 4)? == id).then_some((half(ping, 6)?, said))
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

    fn ping(last: u8) -> Ping {
        Ping {
            to: Ipv4Addr::new(192, 0, 2, last),
            size: 68,
        }
    }

    fn packet(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = [0; 20];
        header[0] = 0x45;
        header[9] = protocol;
        [&header[..], payload].concat()
    }

    fn reply(id: u16, sequence: u16) -> Vec<u8> {
        let mut message = echo(id, sequence, 68);
        message[0] = ECHO_REPLY;
        packet(1, &message)
    }

    fn too_big(id: u16, sequence: u16, mtu: u16) -> Vec<u8> {
        let ping = packet(1, &echo(id, sequence, 68)[..8]);
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
        assert_eq!(answer(&reply(7, 3), 7), Some((3, Answer::Reply)));
        assert_eq!(answer(&reply(8, 3), 7), None);
        assert_eq!(
            answer(&too_big(7, 3, 1400), 7),
            Some((3, Answer::Less(1400)))
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
        let pings = [1, 2, 3].map(ping);
        let mut round = Round::new(&pings);
        let id = round.id;
        for packet in [reply(id, 0), reply(id ^ 1, 1), reply(id, 2)] {
            others.send(&packet).unwrap();
        }
        round.hear(&socket, Instant::now()).unwrap();
        assert_eq!(
            round.answers,
            [Some(Answer::Reply), None, Some(Answer::Reply)]
        );
    }

    #[test]
    fn other_peoples_packets_do_not_hold_it_up() {
        let (socket, others) = Socket::pair(Domain::UNIX, Type::DGRAM, None).unwrap();
        let pings = [ping(1)];
        let mut round = Round::new(&pings);
        let id = round.id;
        let chatter = std::thread::spawn(move || while others.send(&reply(id ^ 1, 0)).is_ok() {});
        round.hear(&socket, Instant::now()).unwrap();
        assert_eq!(round.answers, [None]);
        drop(socket);
        chatter.join().unwrap();
    }

    #[test]
    fn an_answer_is_its_question_s() {
        let pings = [1, 2, 3].map(ping);
        let mut round = Round::new(&pings);
        let id = round.id;
        for packet in [too_big(id, 2, 1400), reply(id, 0), reply(id, 999)] {
            round.take(&packet);
        }
        assert_eq!(
            round.answers,
            [Some(Answer::Reply), None, Some(Answer::Less(1400))]
        );
        assert!(round.is_open());
        round.take(&reply(id, 1));
        assert!(!round.is_open());
    }
}
