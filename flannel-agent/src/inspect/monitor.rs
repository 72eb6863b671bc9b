//! `monitor`: packets as the programs decide about them, one line each.

use std::io::{ErrorKind, Write};
use std::thread::sleep;
use std::time::Duration;

use clap::Args;
use flannel_common::event::{Event, Note};
use flannel_common::program::Program;
use flannel_common::reason::{Class, Reason};
use serde::Serialize;

use super::look::Look;
use super::output::{Format, json};
use super::trace::describe;
use super::wanted::Wanted;
use super::{Verdict, stats};
use crate::base::clock;
use crate::base::wall::Moment;
use crate::dataplane::events::{Events, Wish};

/// How long the kernel keeps events before they are fetched: the buffer has room for two thousand.
const PAUSE: Duration = Duration::from_millis(50);

/// `monitor …`
#[derive(Debug, Clone, Args)]
pub struct Monitor {
    #[command(flatten)]
    pub look: Look,
    #[command(flatten)]
    pub wanted: Wanted,
    /// Only packets that are dropped
    #[arg(long)]
    pub drops: bool,
    /// Of packets that are not dropped, one in so many (a power of two)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = power_of_two)]
    pub sample: u32,
    /// Ends after so many events
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
}

/// One event, decoded.
#[derive(Debug, PartialEq, Serialize)]
struct Line {
    /// Nanoseconds since 1970.
    time_ns: u64,
    program: &'static str,
    class: &'static str,
    reason: &'static str,
    ifindex: u32,
    bytes: u32,
    /// Bytes of payload in each packet that it stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    gso_size: Option<u32>,
    /// As the program left it.
    packet: String,
}

/// What became of events.
#[derive(Debug, Serialize)]
struct Lost {
    lost: u64,
}

pub(super) fn power_of_two(text: &str) -> Result<u32, &'static str> {
    let number: u32 = text.parse().map_err(|_| "not a number")?;
    match number.is_power_of_two() {
        true => Ok(number),
        false => Err("not a power of two: 1, 2, 4, 8 and so on"),
    }
}

impl Monitor {
    /// Until interrupted, or until `--count`.
    pub(super) fn show(&self, out: &mut dyn Write) -> anyhow::Result<Verdict> {
        let view = self.look.view()?;
        let mut events = Events::open(&view, &self.wanted.filter(&view, 0)?)?;
        let booted = Moment::now().before(Duration::from_nanos(clock())).unix();
        let (mut shown, mut lost) = (0, 0);
        loop {
            events.listen(Wish {
                one_in: self.sample,
                drops_only: self.drops,
                whole: false,
            })?;
            sleep(PAUSE);
            while let Some(event) = events.next() {
                // What a later version reports is nothing for this one.
                let Some(line) = Line::new(&event, booted) else {
                    continue;
                };
                match self.look.output {
                    Format::Json => json(out, &line)?,
                    Format::Table => writeln!(out, "{}", line.text())?,
                }
                shown += 1;
                if self.count == Some(shown) {
                    out.flush()?;
                    return Ok(Verdict::Fine);
                }
            }
            let now = events.lost()?;
            if now > lost {
                match self.look.output {
                    Format::Json => json(out, &Lost { lost: now })?,
                    Format::Table => writeln!(
                        out,
                        "{} events lost: too many to show them all (see --drops and --sample)",
                        now - lost
                    )?,
                }
                lost = now;
            }
            match out.flush() {
                // `monitor | head`
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Verdict::Fine),
                flushed => flushed?,
            }
        }
    }
}

const ETHERNET: u32 = 14;

impl Line {
    fn new(Event { about, head }: &Event, booted: Duration) -> Option<Self> {
        let program = Program::ALL
            .into_iter()
            .find(|program| *program as u32 == u32::from(about.program))?;
        let reason = Reason::ALL
            .iter()
            .find(|reason| **reason as u32 == u32::from(about.reason))?;
        let is_bare = Note::is_bare(about.program);
        let at = booted + Duration::from_nanos(about.at);
        Some(Self {
            time_ns: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
            program: program.name(),
            class: stats::class(reason.class()),
            reason: reason.name(),
            ifindex: about.ifindex,
            // With the Ethernet header that it lacks, so that a packet is as long at each hook.
            bytes: about.len + if is_bare { ETHERNET } else { 0 },
            gso_size: (about.gso_size > 0).then_some(about.gso_size),
            packet: described(head.get(..usize::from(about.caught))?, is_bare),
        })
    }

    fn text(&self) -> String {
        let seconds = self.time_ns / 1_000_000_000;
        let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
        let millis = self.time_ns / 1_000_000 % 1000;
        let sign = if self.class == stats::class(Class::Drop) {
            "✗"
        } else {
            " "
        };
        format!(
            "{hour:02}:{minute:02}:{:02}.{millis:03} {sign} {:14} {:18} #{:<4} {:>6} B  {}",
            seconds % 60,
            self.program,
            self.reason,
            self.ifindex,
            self.bytes,
            self.packet
        )
    }
}

/// In words; `is_bare`: it has no Ethernet header, as on a tun device.
fn described(head: &[u8], is_bare: bool) -> String {
    /// Nobody's addresses, and IPv4.
    const FRAME: [u8; 14] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0];
    if is_bare {
        return describe(&[&FRAME, head].concat());
    }
    describe(head)
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use flannel_common::event::About;

    use super::*;

    #[test]
    fn an_event_is_named_and_timed() {
        let mut event = Event::zeroed();
        event.about = About {
            at: 1_500_000_000,
            ifindex: 7,
            len: 98,
            program: Program::UplinkRx as u8,
            reason: Reason::SpoofedSource as u8,
            ..About::zeroed()
        };
        let line = Line::new(&event, Duration::from_secs(3600)).unwrap();
        assert_eq!(line.time_ns, 3_601_500_000_000);
        assert_eq!((line.reason, line.class), ("spoofed_source", "drop"));
        let text = line.text();
        assert!(text.starts_with("01:00:01.500 ✗ uplink_rx"), "{text}");
    }

    #[test]
    fn a_packet_without_a_frame_is_as_long_as_with_one() {
        let long = |program: Program| {
            let mut event = Event::zeroed();
            event.about = About {
                len: 84,
                program: program as u8,
                ..About::zeroed()
            };
            Line::new(&event, Duration::ZERO).map(|line| line.bytes)
        };
        assert_eq!(long(Program::UplinkTx), Some(84));
        assert_eq!(long(Program::UplinkTxIp), Some(98));
    }

    #[test]
    fn another_versions_event_is_left_out() {
        let mut event = Event::zeroed();
        event.about.program = 200;
        assert_eq!(Line::new(&event, Duration::ZERO), None);
    }

    #[test]
    fn samples_are_powers_of_two() {
        assert_eq!(power_of_two("64"), Ok(64));
        assert!(power_of_two("3").is_err() && power_of_two("0").is_err());
    }
}
