//! ICMP echo with counts, sizes and what comes back instead.

use std::net::Ipv4Addr;
use std::process::Output;

use crate::host::Host;
use crate::wait::{self, SOON};

/// A ping to be sent from a host.
#[derive(Debug)]
pub struct Ping<'a, H: ?Sized> {
    from: &'a H,
    to: Ipv4Addr,
    count: u32,
    packet: Option<u32>,
    source: Option<String>,
}

/// What `ping` reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub received: u32,
    /// TTL of the last reply.
    pub ttl: Option<u8>,
    /// The MTU that the last "fragmentation needed" named, or that the own link has.
    pub too_big: Option<u32>,
    pub text: String,
}

/// The answers of so many find room in ping's socket, should it not get a CPU until all are there.
const TOGETHER: u32 = 50;
/// ICMP and IPv4 header.
const HEADERS: u32 = 28;

impl<'a, H: Host + ?Sized> Ping<'a, H> {
    pub(crate) fn new(from: &'a H, to: Ipv4Addr) -> Self {
        Self {
            from,
            to,
            count: 3,
            packet: None,
            source: None,
        }
    }

    /// How many; 3 unless told.
    #[must_use]
    pub fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// IPv4 packets of exactly `bytes` (headers included) that must not be fragmented.
    #[must_use]
    pub fn whole(mut self, bytes: u32) -> Self {
        self.packet = Some(bytes);
        self
    }

    /// Bound to an address or a device.
    #[must_use]
    pub fn bound_to(mut self, source: &impl ToString) -> Self {
        self.source = Some(source.to_string());
        self
    }

    /// Sends them, for a test that does not know whether they are answered: what is not back by a second is lost.
    #[track_caller]
    pub fn send(&self) -> Report {
        self.report("-i 0.01 -W 1")
    }

    /// Sends one, for a test that expects it to be answered, be it by an error.
    #[track_caller]
    pub fn told(&self) -> Report {
        let seconds = (SOON * wait::patience()).as_secs();
        self.report(&format!("-W {seconds}"))
    }

    fn report(&self, times: &str) -> Report {
        let mut line = format!("ping -n {times} -c {}", self.count);
        if let Some(packet) = self.packet {
            line += &format!(" -M do -s {}", packet - HEADERS);
        }
        if let Some(source) = &self.source {
            line += &format!(" -I {source}");
        }
        Report::new(&self.from.try_exec(&format!("{line} {}", self.to)))
    }

    /// Whether every one was answered.
    #[track_caller]
    pub fn lossless(&self) -> bool {
        self.send().received == self.count
    }

    /// # Panics
    /// If one of them stays without an answer, or there are more than 50.
    #[track_caller]
    pub fn succeeds(&self) -> Report {
        // Behind the last, ping waits one interval and no longer, or twice what an answer took before it: 10 ms are little
        // on a machine that stands still for a second. So the interval is long, and all go at once.
        assert!(self.count <= TOGETHER, "send {} in parts", self.count);
        let seconds = (SOON * wait::patience()).as_secs();
        let report = self.report(&format!("-l {} -i {seconds} -W {seconds}", self.count));
        assert_eq!(report.received, self.count, "{}", report.text);
        report
    }
}

impl Report {
    fn new(output: &Output) -> Self {
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Self {
            received: number_before(&text, " received").unwrap_or(0),
            ttl: text
                .lines()
                .rev()
                .find_map(|line| number_after(line, "ttl="))
                .and_then(|n| n.try_into().ok()),
            // "Frag needed and DF set (mtu = 1450)" from a router, "message too long, mtu=1450" from
            // the own socket.
            too_big: number_after(&text, "mtu = ").or_else(|| number_after(&text, "mtu=")),
            text,
        }
    }
}

fn number_before(text: &str, word: &str) -> Option<u32> {
    text[..text.find(word)?].rsplit(' ').next()?.parse().ok()
}

fn number_after(text: &str, word: &str) -> Option<u32> {
    let rest = &text[text.find(word)? + word.len()..];
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}
