//! `capture`: whole packets as the programs decide about them, for Wireshark.

mod pcapng;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use flannel_common::event::{LONGEST, Note};
use flannel_common::program::Program;
use flannel_common::reason::{Class, Reason};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::look::{Look, asking};
use super::monitor::power_of_two;
use super::wanted::Wanted;
use super::{Verdict, stats};
use crate::base::clock;
use crate::base::wall::Moment;
use crate::dataplane::captured::{Captured, Packet};
use crate::dataplane::events::{Events, Wish};
use crate::dataplane::view::View;
use crate::node::net::{Link, Netlink};
use pcapng::{LinkType, Writer};

/// How long the kernel keeps packets before they are fetched.
const PAUSE: Duration = Duration::from_millis(20);

/// `capture …`
#[derive(Debug, Clone, Args)]
pub struct Capture {
    #[command(flatten)]
    pub look: Look,
    /// Where to write (pcapng) [default: standard output, as for `| wireshark -k -i -`]
    #[arg(short, long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    #[command(flatten)]
    pub wanted: Wanted,
    /// Only packets that are dropped
    #[arg(long)]
    pub drops: bool,
    /// Of packets that are not dropped, one in so many (a power of two)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = power_of_two)]
    pub sample: u32,
    /// Ends after so many packets
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Of each packet only so many bytes
    #[arg(long, value_name = "BYTES", default_value_t = LONGEST,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(LONGEST)))]
    pub snaplen: u32,
}

impl Capture {
    /// Until interrupted, or until `--count`.
    pub(super) fn show(&self, stdout: &mut dyn Write) -> anyhow::Result<Verdict> {
        let view = self.look.view()?;
        let filter = self.wanted.filter(&view, self.snaplen)?;
        // Before anybody listens: an interrupt has to end that.
        let interrupts = interrupts()?;
        let mut file;
        let out: &mut dyn Write = match self.file() {
            Some(path) => {
                let made = File::create(path);
                file = made.with_context(|| format!("cannot write {}", path.display()))?;
                &mut file
            }
            None if io::stdout().is_terminal() => bail!(
                "packets are nothing for a terminal: --write=FILE, or `flannel-agent capture | wireshark -k -i -`"
            ),
            None => stdout,
        };
        let mut events = Events::open(&view, &filter)?;
        let mut captured = Captured::open(&view, filter.snap)?;
        let mut writer = Records::begin(out, &view)?;
        let wish = Wish {
            one_in: self.sample,
            drops_only: self.drops,
            whole: true,
        };
        let mut waiting = Vec::new();
        let ended = loop {
            events.listen(wish)?;
            sleep(PAUSE);
            let over = interrupts.read_signal()?.is_some();
            // What another CPU saw before may still be to come.
            let until = clock();
            captured.take(&mut waiting);
            waiting.sort_by_key(|packet: &Packet| packet.about.at);
            let due = match over {
                true => waiting.len(),
                false => waiting.partition_point(|packet| packet.about.at < until),
            };
            let left = self.count.map(|count| count - writer.written);
            let due = left.map_or(due, |left| due.min(usize::try_from(left).unwrap_or(due)));
            let written = writer.write(waiting.drain(..due));
            if over || written.is_err() || self.count == Some(writer.written) {
                break written;
            }
        };
        match ended {
            // Wireshark was closed.
            Err(error) if is_closed_pipe(&error) => {}
            ended => ended?,
        }
        drop(events);
        eprintln!(
            "{} packets captured, {} lost for want of room (see --pod, --peer, --port, --sample and --snaplen)",
            writer.written,
            captured.lost()
        );
        Ok(Verdict::Fine)
    }

    fn file(&self) -> Option<&Path> {
        let path = self.write.as_deref()?;
        (path != "-").then_some(path)
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// SIGINT and SIGTERM, which do not end this thread any more.
fn interrupts() -> anyhow::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("cannot block signals")?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .context("cannot wait for signals")
}

/// The file, with the devices that are in it.
struct Records<W: Write> {
    pcapng: Writer<W>,
    /// Place by ifindex, and by whether packets begin with their IP header there.
    interfaces: BTreeMap<(u32, bool), u32>,
    links: Vec<Link>,
    /// At zero of the monotonic clock.
    booted: Duration,
    written: u64,
}

impl<W: Write> Records<W> {
    fn begin(out: W, view: &View) -> anyhow::Result<Self> {
        let name = concat!("flannel-agent ", env!("CARGO_PKG_VERSION"));
        let (links, hooks) = asking(async || {
            let net = Netlink::open()?;
            let links = net.links().await?;
            let hooks = view.hooks(&net, &links).await?;
            Ok((links, hooks))
        })?;
        let mut records = Self {
            pcapng: Writer::new(out, name)?,
            interfaces: BTreeMap::new(),
            links,
            booted: Moment::now().before(Duration::from_nanos(clock())).unix(),
            written: 0,
        };
        // Readers refuse a file without any.
        for hook in hooks.iter().filter(|hook| hook.attached) {
            records.interface(hook.ifindex, false)?;
        }
        // So that Wireshark starts.
        records.pcapng.flush()?;
        Ok(records)
    }

    fn write(&mut self, packets: impl Iterator<Item = Packet>) -> anyhow::Result<()> {
        for Packet { about, bytes } in packets {
            // What a later version reports is nothing for this one.
            let Some((program, reason)) = decided(about.program, about.reason) else {
                continue;
            };
            let at = self.booted + Duration::from_nanos(about.at);
            let packet = pcapng::Packet {
                interface: self.interface(about.ifindex, Note::is_bare(about.program))?,
                time: u64::try_from(at.as_nanos()).unwrap_or(u64::MAX),
                bytes: &bytes,
                len: about.len,
                inbound: is_inbound(program),
                action: about.action.cast_signed(),
                comment: &comment(program, reason, about.gso_size),
            };
            self.pcapng.packet(&packet)?;
            self.written += 1;
        }
        Ok(self.pcapng.flush()?)
    }

    fn interface(&mut self, index: u32, is_bare: bool) -> anyhow::Result<u32> {
        if let Some(place) = self.interfaces.get(&(index, is_bare)) {
            return Ok(*place);
        }
        let known = |links: &[Link]| {
            let mut links = links.iter().filter(|link| link.index == index);
            links.next().map(|link| link.name.clone())
        };
        let name = match known(&self.links) {
            Some(name) => Some(name),
            None => {
                self.links = links()?;
                known(&self.links)
            }
        };
        let name = name.unwrap_or_else(|| format!("#{index}"));
        let kind = match is_bare {
            true => LinkType::Raw,
            false => LinkType::Ethernet,
        };
        let place = self.pcapng.interface(&name, kind)?;
        self.interfaces.insert((index, is_bare), place);
        Ok(place)
    }
}

fn links() -> anyhow::Result<Vec<Link>> {
    asking(async || Ok(Netlink::open()?.links().await?))
}

fn decided(program: u8, reason: u8) -> Option<(Program, Reason)> {
    let mut programs = Program::ALL.into_iter();
    let program = programs.find(|known| *known as u32 == u32::from(program))?;
    let mut reasons = Reason::ALL.iter();
    let reason = reasons.find(|known| **known as u32 == u32::from(reason))?;
    Some((program, *reason))
}

/// `uplink_rx: spoofed_source (drop): inner source … → look for …`
fn comment(program: Program, reason: Reason, gso_size: u32) -> String {
    let class = stats::class(reason.class());
    let mut text = format!(
        "{}: {} ({class}): {}",
        program.name(),
        reason.name(),
        reason.meaning()
    );
    if gso_size > 0 {
        text += &format!("; stands for packets with {gso_size} bytes of payload each");
    }
    if reason.class() == Class::Drop {
        text += &format!("; {}", reason.advice());
    }
    text
}

/// Whether the hook is on a device's ingress, or the packet came by one.
const fn is_inbound(program: Program) -> bool {
    match program {
        Program::OverlayCatch
        | Program::UplinkRx
        | Program::PodTx
        | Program::OverlayRx
        | Program::XdpRx
        | Program::UplinkXdp
        | Program::UplinkSnatRx
        | Program::OverlaySnatRx
        | Program::SnatOddRx
        | Program::DirectRx
        | Program::OutsideRx
        | Program::AnchorRx
        | Program::FrameRx => true,
        Program::OverlayTx
        | Program::PodRx
        | Program::UplinkTx
        | Program::OverlaySnatTx
        | Program::SnatOpen
        | Program::SnatOddTx
        | Program::DirectTx
        | Program::OutsideTx
        | Program::BridgeRx
        | Program::UplinkTxIp
        | Program::SnatOpenIp
        | Program::SnatOddTxIp => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_says_hook_verdict_and_what_to_do_about_a_drop() {
        let text = comment(Program::UplinkRx, Reason::SpoofedSource, 0);
        assert!(
            text.starts_with("uplink_rx: spoofed_source (drop): "),
            "{text}"
        );
        assert!(text.ends_with(Reason::SpoofedSource.advice()), "{text}");
        let text = comment(Program::OverlayTx, Reason::Encap, 1398);
        assert!(
            text.contains("(forward)") && text.contains("1398"),
            "{text}"
        );
        assert!(!text.contains(Reason::Encap.advice()), "{text}");
    }

    #[test]
    fn another_versions_numbers_are_nobodys() {
        assert_eq!(
            decided(Program::UplinkRx as u8, Reason::Encap as u8),
            Some((Program::UplinkRx, Reason::Encap))
        );
        assert_eq!(decided(200, 0), None);
        assert_eq!(decided(0, 200), None);
    }
}
