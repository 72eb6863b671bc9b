//! Packets on a link, by tcpdump.

use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::host::Host as _;
use crate::netns::{Netns, output};
use crate::node::Node;
use crate::process::Process;
use crate::wait::{SOON, eventually, eventually_some};

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
    /// Packets that the kernel counts as received and tcpdump does not: they came before the kernel had the filter.
    passed_over: u64,
}

/// More than any packet has. In immediate mode each packet takes so much of the buffer, however short it is: with tcpdump's own
/// numbers eight packets fill it, and the ninth is lost on a busy machine.
const LONGEST: &str = "66000";
const BUFFER_KIB: &str = "32768";

/// So often it is asked whether still more comes.
const LOOKS: u32 = 20;

/// After so many looks in vain it is asked again.
const AGAIN: u32 = 100;

/// Header of a pcap file, and of each packet in it.
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;

impl Capture {
    /// Captures on `device` of `node` what matches `filter` (pcap-filter syntax), whole packets.
    pub fn start(node: &Node, device: &str, filter: &str) -> Self {
        Self::inside(node, node.netns(), device, filter)
    }

    /// The same on a device of another namespace, such as a pod's of `node`.
    pub fn inside(node: &Node, netns: &Netns, device: &str, filter: &str) -> Self {
        let name = format!("capture-{device}-{}", node.port());
        let file = node.folder().join(format!("{name}.pcap"));
        let mut command = netns.command("tcpdump");
        command
            .args(["-i", device, "-n", "-Z", "root"])
            .args(["-s", LONGEST, "-B", BUFFER_KIB])
            .args(["--immediate-mode", "-U", "-w"])
            .arg(&file)
            .arg(filter);
        let process = node.spawn(&name, command);
        eventually("tcpdump listens", SOON, || {
            // To the end of the line: it is written in parts, and a report must not come in between.
            let log = process.log();
            let line = log.find("listening on").map(|at| &log[at..]);
            line.is_some_and(|line| line.contains('\n'))
        });
        let mut capture = Self {
            process,
            file,
            passed_over: u64::MAX,
        };
        // Until it has learnt the number of those.
        capture.settled();
        capture
    }

    /// Waits until at least `count` packets were seen, and returns them.
    #[track_caller]
    pub fn packets(&self, count: usize) -> Vec<Vec<u8>> {
        eventually(format!("{count} captured packets"), SOON, || {
            self.seen().len() >= count
        });
        self.seen()
    }

    /// Ends the capture and returns what it saw: all that had come by then.
    ///
    /// # Panics
    /// If that is nothing, and there was something that found no room.
    #[track_caller]
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        let dropped = self.end();
        let seen = self.seen();
        assert!(
            !seen.is_empty() || dropped == 0,
            "{dropped} packets that nobody looked at"
        );
        seen
    }

    /// Ends the capture, which has seen nothing.
    ///
    /// # Panics
    /// If it has, showing the first packets as tcpdump does.
    #[track_caller]
    pub fn saw_nothing(mut self) {
        let dropped = self.end();
        let seen = self.seen().len();
        let show = || {
            let mut tcpdump = Command::new("tcpdump");
            let shown = tcpdump.args(["-n", "-e", "-v", "-c", "5", "-r"]);
            let output = output(shown.arg(&self.file));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        assert!(seen == 0, "{seen} packets were captured:\n{}", show());
        assert_eq!(dropped, 0, "packets that nobody looked at");
    }

    /// Ends it, once what waits in the kernel is read: tcpdump leaves that where it is when it is told to end. Returns how many
    /// packets found no room.
    #[track_caller]
    fn end(&mut self) -> u64 {
        let mut dropped = 0;
        if let Some(now) = self.settled() {
            eventually("tcpdump has read everything", SOON, || {
                let read = self.report();
                dropped = read.map_or(0, |read| read.dropped);
                read.is_none_or(|read| read.waiting(now) <= self.passed_over)
            });
        }
        self.process.signal(Signal::SIGINT);
        self.process.wait(SOON);
        dropped
    }

    /// What it has counted once nothing more comes; where something comes all the time, some looks later.
    #[track_caller]
    fn settled(&mut self) -> Option<Counted> {
        let mut last = self.report()?;
        for _ in 0..LOOKS {
            let next = self.report()?;
            self.passed_over = self.passed_over.min(next.waiting(next));
            if next == last && next.waiting(next) == self.passed_over {
                break;
            }
            last = next;
        }
        Some(last)
    }

    /// tcpdump's own numbers; none if it has ended, as it does when the device goes.
    #[track_caller]
    fn report(&mut self) -> Option<Counted> {
        let before = Counted::all(&self.process.log()).count();
        let mut looks = 0;
        eventually_some("tcpdump says what it has counted", SOON, || {
            // Again now and then: one that comes while another is written spoils both.
            if looks % AGAIN == 0 {
                self.process.signal(Signal::SIGUSR1);
            }
            looks += 1;
            let counted = Counted::all(&self.process.log()).nth(before);
            match (counted, self.process.exited()) {
                (None, None) => None,
                (counted, _) => Some(counted),
            }
        })
    }

    fn seen(&self) -> Vec<Vec<u8>> {
        let bytes = std::fs::read(&self.file).unwrap_or_default();
        let mut rest = bytes.get(FILE_HEADER..).unwrap_or_default();
        let mut packets = Vec::new();
        while let Some(header) = rest.get(..PACKET_HEADER) {
            let len = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
            let end = PACKET_HEADER + usize::try_from(len).expect("fits");
            // tcpdump may be in the middle of the last one.
            let Some(packet) = rest.get(PACKET_HEADER..end) else {
                break;
            };
            packets.push(packet.to_vec());
            rest = &rest[end..];
        }
        packets
    }
}

/// What tcpdump reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counted {
    read: u64,
    /// Read, waiting, dropped or passed over.
    received: u64,
    dropped: u64,
}

impl Counted {
    /// All reports in its log, "2 packets captured, 3 packets received by filter, 0 packets dropped by kernel".
    fn all(log: &str) -> impl Iterator<Item = Self> {
        let whole = log
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'));
        whole.filter_map(|line| {
            let line = line.strip_prefix("tcpdump: ").unwrap_or(line);
            let mut numbers = line.split(", ").map(|part| part.split_once(" packet"));
            let mut next = |what: &str| {
                let (number, rest) = numbers.next()??;
                rest.trim_start_matches('s')
                    .trim_start()
                    .starts_with(what)
                    .then(|| number.parse().ok())?
            };
            Some(Self {
                read: next("captured")?,
                received: next("received by filter")?,
                dropped: next("dropped by kernel")?,
            })
        })
    }

    /// What is not read yet of what had come when `then` was reported.
    fn waiting(self, then: Self) -> u64 {
        then.received.saturating_sub(self.read + self.dropped)
    }
}
