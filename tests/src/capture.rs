//! Packets on a link, by tcpdump.

use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::host::Host as _;
use crate::netns::{Netns, output};
use crate::node::Node;
use crate::process::Process;
use crate::wait::{SOON, eventually};

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// More than any packet has. In immediate mode each packet takes so much of the buffer, however short it is: with tcpdump's own
/// numbers eight packets fill it, and the ninth is lost on a busy machine.
const LONGEST: &str = "66000";
const BUFFER_KIB: &str = "32768";

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
            process.log().contains("listening on")
        });
        Self { process, file }
    }

    /// Waits until at least `count` packets were seen, and returns them.
    #[track_caller]
    pub fn packets(&self, count: usize) -> Vec<Vec<u8>> {
        eventually(format!("{count} captured packets"), SOON, || {
            self.seen().len() >= count
        });
        self.seen()
    }

    /// Ends the capture and returns what it saw. The last packets may be missing: whoever expects some waits for them with
    /// [`Self::packets`].
    #[track_caller]
    pub fn finish(mut self) -> Vec<Vec<u8>> {
        self.process.signal(Signal::SIGINT);
        self.process.wait(SOON);
        self.seen()
    }

    /// Ends the capture, which has seen nothing.
    ///
    /// # Panics
    /// If it has, showing the first packets as tcpdump does.
    #[track_caller]
    pub fn saw_nothing(mut self) {
        self.process.signal(Signal::SIGINT);
        self.process.wait(SOON);
        let seen = self.seen().len();
        let show = || {
            let mut tcpdump = Command::new("tcpdump");
            let shown = tcpdump.args(["-n", "-e", "-v", "-c", "5", "-r"]);
            let output = output(shown.arg(&self.file));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        assert!(seen == 0, "{seen} packets were captured:\n{}", show());
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
